"""A task that was submitted to the executor: its inputs, and its attempts so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from encamp.jobs.journal.record import Key
from encamp.jobs.run.retries import Retries
from encamp.reports import AttemptReport
from encamp.storage.inputs.mirror import Item


@dataclass
class SubmittedTask:
    """A task that was submitted to the executor, or waits for its next attempt."""

    key: Key
    why: str
    inputs: list[Item]
    shared: tuple[Item, ...]
    """The job's inputs when this task was planned."""
    number: int
    """The number of its last attempt, in all runs of the job."""
    retries: Retries = field(default_factory=Retries)
    """Counts its attempts in this run."""
    submitted: float = 0.0
    attempts: list[AttemptReport] = field(default_factory=list)

    def begin(self) -> None:
        """Count another attempt."""
        self.number += 1
        self.retries.begin()

    def plan_anew(self, inputs: list[Item], shared: tuple[Item, ...], key: Key) -> None:
        """Replace its inputs."""
        if key != self.key:
            self.retries.inputs_had_changed()
        self.inputs, self.shared, self.key = inputs, shared, key

    def found_the_disk_full(self) -> None:
        """Do not count its last attempt, which is no failure."""
        self.retries.disk_was_full()
        self.number -= 1
        self.attempts.pop()
