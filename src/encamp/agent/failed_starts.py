"""When to give up starting a slot's process."""

from __future__ import annotations

import socket

from encamp.errors import SlotsCannotStart

TRIES = 3
"""Maximum number of consecutive failed starts of a slot's processes."""


class Starts:
    """Counts the failed starts in a row, of a slot's processes or of those for the same call.

    A start has failed if the process ended before it was ready for calls, or before it had started
    a call that waited for it. In the first case no slot can start here; in the second, the call
    ends the processes.
    """

    def __init__(self) -> None:
        self._failed = 0
        self._words: str | None = None

    def note(self, start_failure: str | None, *, begun: bool, waited: bool) -> None:
        """Count an ended process; ``start_failure`` is its output if it was never ready."""
        failed = start_failure is not None or (waited and not begun)
        self._failed = self._failed + 1 if failed else 0
        self._words = start_failure

    @property
    def by_call(self) -> bool:
        """Whether the waiting call ends all processes."""
        return self._failed >= TRIES and self._words is None

    def check(self, host: str = "") -> None:
        """Raise `SlotsCannotStart` if no process ever becomes ready."""
        if self._failed >= TRIES and self._words is not None:
            raise SlotsCannotStart(host or socket.gethostname(), self._failed, self._words)
