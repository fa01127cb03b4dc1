"""Whether a task is tried again after a failure: which failures count, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from encamp.errors import CommandNotFound, InputError, SlotsCannotStart
from encamp.jobs.worker.supervise_attempt import Abandoned

MOST_LOSSES = 3
"""How often a task is run again after the loss of its host, in addition to its retries: the task
itself may kill hosts."""
MOST_CHANGES = 3
"""How often a task is run again because its inputs have changed, in addition to its retries."""


@dataclass
class Retries:
    """The attempts of a task in one run that count against its ``retries``."""

    counted: int = 0
    """The attempts that count, with the one that runs."""
    losses: int = 0
    """How many hosts it has lost, at most `MOST_LOSSES`."""
    changes: int = 0
    """How often its inputs had changed since they were looked up, at most `MOST_CHANGES`."""

    def begin(self) -> None:
        """Count another attempt."""
        self.counted += 1

    def host_was_lost(self) -> None:
        """Do not count the attempt that a lost host has ended, up to `MOST_LOSSES` times."""
        if self.losses < MOST_LOSSES:
            self.losses += 1
            self.counted -= 1

    def inputs_had_changed(self) -> None:
        """Do not count an attempt whose inputs had changed, up to `MOST_CHANGES` times."""
        if self.changes < MOST_CHANGES:
            self.changes += 1
            self.counted -= 1

    def disk_was_full(self) -> None:
        """Do not count an attempt that waits for space on a disk."""
        self.counted -= 1

    def is_tried_again(self, error: BaseException | None, retries: int) -> bool:
        """Whether another attempt follows the one that has failed with ``error``."""
        return self.counted <= retries and not is_hopeless(error)


def is_hopeless(error: BaseException | None) -> bool:
    """Whether every other attempt would fail with the same error."""
    return isinstance(error, InputError | CommandNotFound | Abandoned | SlotsCannotStart)
