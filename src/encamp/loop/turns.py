"""A lock for what a signal's handler may come back to in the middle of it."""

from __future__ import annotations

from threading import RLock


class Turns:
    """Threads take turns; a handler of a signal that wants one within its own thread's is refused.

    With a plain lock it would wait for ever, and without one it would find things half done.
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
            raise RuntimeError("a signal's handler came while this thread sent or received itself")
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
