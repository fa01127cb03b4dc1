"""A lock for code that a signal's handler may call again while it runs."""

from __future__ import annotations

from threading import RLock


class NonReentrantLock:
    """A lock that raises an error if a signal's handler asks for it while its own thread holds it.

    With a plain lock the handler would wait forever; without one it would find inconsistent state.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._held = False

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; False if another thread has it. Raises RuntimeError in such a handler."""
        if not self._lock.acquire(blocking=wait):
            return False
        if self._held:
            self._lock.release()
            raise RuntimeError(
                "the handler of a signal called this while this thread was sending or receiving"
            )
        self._held = True
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._held = False
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()
