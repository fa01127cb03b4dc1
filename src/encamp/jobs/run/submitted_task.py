"""A task that was submitted to the executor: its attempts so far, and how many of them count."""

from __future__ import annotations

from dataclasses import dataclass, field

from encamp.jobs.journal.record import Key
from encamp.jobs.run.retries import MOST_CHANGES, MOST_LOSSES, is_hopeless
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
    tries: int = 0
    """The number of the task's attempts in this run that count as such."""
    submitted: float = 0.0
    parked_at: int = 0
    """How many tasks had ended when it was put aside because a disk was full."""
    losses: int = 0
    """How many hosts it has lost."""
    changes: int = 0
    """How often its inputs had changed since they were looked up."""
    attempts: list[AttemptReport] = field(default_factory=list)

    def begin(self) -> None:
        """Count another attempt."""
        self.number += 1
        self.tries += 1

    def host_was_lost(self) -> None:
        """Record a lost host. The first `MOST_LOSSES` losses do not count as failed attempts."""
        if self.losses < MOST_LOSSES:
            self.losses += 1
            self.tries -= 1

    def plan_anew(self, inputs: list[Item], shared: tuple[Item, ...], key: Key) -> None:
        """Replace its inputs; if they had changed, this does not count as a failed attempt."""
        if key != self.key and self.changes < MOST_CHANGES:
            self.changes += 1
            self.tries -= 1
        self.inputs, self.shared, self.key = inputs, shared, key

    def put_aside(self, ended: int) -> None:
        """Wait for space on a disk, without a failed attempt; ``ended`` tasks have ended so far."""
        self.tries -= 1
        self.number -= 1
        self.attempts.pop()
        self.parked_at = ended

    def is_tried_again(self, error: BaseException | None, retries: int) -> bool:
        """Whether another attempt follows the one that has failed with ``error``."""
        return self.tries <= retries and not is_hopeless(error)
