"""The state of a running job and of its tasks, as displays and `encamp status --json` show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["waiting", "running", "done", "failed", "blocked", "up to date", "to do"]
"""``blocked``: a task it waits for failed. ``up to date``: done by an earlier run.
``to do``: what a dry run would run."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A running task.

    ``since`` is when it was first seen running, ``attempt`` the number of the attempt
    in this run.
    """

    name: str
    attempt: int
    since: float


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that has failed, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of a running job, or how its last run ended. Times are in seconds."""

    name: str
    folder: str
    """The job's own folder in the destination: journal, report, logs."""
    state: Literal["running", "stopping", "ended", "stopped", "killed"]
    """``stopping``: no more tasks are started. ``stopped``: before its end, by a signal or an
    error. ``killed``: its process has died without recording an end."""
    controller: str
    """The process that runs it, and its host."""
    now: float
    """The time of this state."""
    started: float | None = None
    tasks: int | None = None
    """The number of tasks of the run; None if it is not known."""
    counts: dict[State, int] = field(default_factory=dict)
    """How many tasks are in each state; states without tasks are left out."""
    handed_over: int = 0
    """How many waiting tasks were submitted to an executor that does not report which ones run."""
    running: list[RunningTask] = field(default_factory=list)
    """The running tasks that have run longest, at most a hundred."""
    failed: list[FailedTask] = field(default_factory=list)
    """The last twenty failed tasks."""
    left: float | None = None
    """Estimated seconds until the end, from the times of tasks so far; None if unknown."""
    slots: int | None = None
    bytes_mirrored: int = 0

    @property
    def ended(self) -> int:
        """How many tasks have ended, in any state."""
        return sum(n for state, n in self.counts.items() if state not in ("waiting", "running"))
