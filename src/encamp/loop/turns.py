"""A lock for code that a signal's handler may call again while it runs."""

from __future__ import annotations

from threading import RLock


class Turns:
    """A lock for threads that refuses a signal's handler within its own thread's turn.

    With a plain lock the handler would wait forever; without one it would find inconsistent state.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._taken = False

    def take(self, *, wait: bool = True) -> bool:
        """Begin a turn; False if another thread has it. Raises RuntimeError in such a handler."""
        if not self._lock.acquire(blocking=wait):
            return False
        if self._taken:
            self._lock.release()
            raise RuntimeError(
                "the handler of a signal called this while this thread was sending or receiving"
            )
        self._taken = True
        return True

    def leave(self) -> None:
        """End a turn."""
        self._taken = False
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *exc: object) -> None:
        self.leave()
