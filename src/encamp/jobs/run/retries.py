"""Whether a task is tried again after a failure."""

from __future__ import annotations

from encamp.errors import CommandNotFound, InputError, SlotsCannotStart
from encamp.jobs.worker.supervise_attempt import Abandoned

MOST_LOSSES = 3
"""How often a task is run again after the loss of its host: the task itself may kill hosts."""
MOST_CHANGES = 3
"""How often a task is run again because its inputs have changed, in addition to its retries."""


def is_hopeless(error: BaseException | None) -> bool:
    """Whether every other attempt would fail with the same error."""
    return isinstance(error, InputError | CommandNotFound | Abandoned | SlotsCannotStart)
