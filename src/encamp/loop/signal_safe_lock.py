"""A lock for code that a signal's handler or a destructor may call again while it runs."""

from __future__ import annotations

from threading import RLock


class NonReentrantLock:
    """A lock that raises an error if the thread that holds it asks for it again.

    That thread runs the handler of a signal, or the destructor of an object. With a plain lock
    these would wait forever; without one they would find inconsistent state.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._held = False

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; False if another thread has it. Raises RuntimeError if this one has it."""
        if not self._lock.acquire(blocking=wait):
            return False
        if self._held:
            self._lock.release()
            raise RuntimeError(
                "a signal handler or a destructor called this while its thread was "
                "sending or receiving"
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
