"""The end of a batch system's allocation: tasks that cannot end before it are not started."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

from encamp import slurm
from encamp.attempt_facts import Span
from encamp.errors import OutOfTime
from encamp.jobs.steps import Task

STOP_BEFORE = 30.0
"""Running tasks are stopped this many seconds before the end; finished ones are then published."""

_Kind = tuple[tuple[type, str], ...]


class TimeLeft:
    """How long the run may continue, and how long its tasks take.

    A task may take its time limit. Once a task with the same steps has ended, the shortest time of
    such tasks counts instead.
    """

    def __init__(self, tasks: Iterable[Task], time_limit: float | None = None) -> None:
        self._end = self._asked()
        self._limit = time_limit
        """The run's time limit for every task, if there is one."""
        self.limited = self._end < math.inf
        """Whether the run has a known end."""
        limits = map(self._limit_of, tasks) if self.limited else ()
        self._longest = max(limits, default=0.0)
        self._quickest: dict[_Kind, float] = {}

    @property
    def short(self) -> bool:
        """Whether there may be too little time for some task that starts now."""
        return time.time() + self._longest > self._end

    def note(self, task: Task, phases: Sequence[Span]) -> None:
        """Record that a task is done."""
        if self.limited and phases:
            seconds = phases[-1].start + phases[-1].seconds - phases[0].start
            kind = _kind(task)
            self._quickest[kind] = min(seconds, self._quickest.get(kind, math.inf))
            self._longest = max(seconds, self._longest)

    def enough_for(self, task: Task) -> bool:
        """Whether a task that starts now can end in time."""
        return not self.limited or time.time() + self._needed(task) <= self._end

    def is_up(self) -> bool:
        """Whether running tasks must stop; first checks whether the end was moved."""
        return time.time() >= self._end and not self.moved()

    def moved(self) -> bool:
        """Whether the end was moved to a later time."""
        before, self._end = self._end, self._asked()
        self.limited = self._end < math.inf
        return self._end > before

    def error(self, done: int, tasks: int, waiting: Task | None) -> OutOfTime:
        """The error when the run stops; ``waiting`` is a task that was not started."""
        needed = None if waiting is None else self._needed(waiting)
        name = None if waiting is None else waiting.name
        return OutOfTime(slurm.job_id() or "", self._end + STOP_BEFORE, done, tasks, name, needed)

    def _needed(self, task: Task) -> float:
        return self._quickest.get(_kind(task), self._limit_of(task))

    def _limit_of(self, task: Task) -> float:
        return self._limit or task.time_limit or 0.0

    def _asked(self) -> float:
        end = slurm.end_time()
        return math.inf if end is None else end - STOP_BEFORE


def _kind(task: Task) -> _Kind:
    """The functions and programs of a task's steps."""
    return tuple((type(step), step.label.partition(" ")[0]) for step in task.steps)
