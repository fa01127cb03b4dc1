"""A `concurrent.futures.Future` that takes little memory while nobody waits for it.

A standard future has its own lock, condition and queue, more than a kilobyte. Here they are created
when a thread waits; until then one lock for all futures protects the state.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any

from encamp.errors import NotInTime
from encamp.quantities import patience

PENDING, RUNNING, FINISHED = "PENDING", "RUNNING", "FINISHED"
CANCELLED = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
ENDED = (*CANCELLED, FINISHED)
_lock = threading.Lock()


def _forked() -> None:
    """In a forked process: replace the lock, which another thread of the parent may hold."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class _Made:
    """An attribute that is created when it is first read, by code of the standard library.

    ``flag`` names the attribute that says so: reading ``__dict__`` would create a dictionary.
    """

    def __init__(self, make: Callable[[], Any], flag: str) -> None:
        self._make, self._flag = make, flag

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: LightFuture | None, owner: type) -> Any:
        if future is None:
            return self
        with _lock:
            setattr(future, self._flag, True)
            return future.__dict__.setdefault(self._name, self._make())


class LightFuture(Future[Any]):
    """Base of futures whose waiting threads do the work themselves, in `_wait`."""

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _heavy = False
    """Whether it has a condition, for threads that wait on it."""
    _called_back = False
    """Whether it has callbacks."""
    _condition = _Made(threading.Condition, "_heavy")
    _waiters = _Made(list, "_heavy")
    _done_callbacks = _Made(list, "_called_back")

    def __init__(self) -> None:  # without the base's: see the module's docstring
        pass

    def _wait(self, timeout: float | None) -> float | None:
        """Wait until it is done or the time is over; returns the seconds left."""
        raise NotImplementedError

    def _not_within(self, seconds: float) -> NotInTime:
        """The error of a wait whose time is over."""
        return NotInTime("there is no result", seconds)

    def done(self) -> bool:
        """Whether it has ended in any way."""
        return self._state in ENDED

    def running(self) -> bool:
        """Whether it has started and not ended."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled before it started."""
        return self._state in CANCELLED

    def _set_cancelled(self) -> None:
        """It was taken back before it started."""
        super().cancel()
        super().set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Any:
        """Its result; waits, and raises the error of the call. See `Future.result`."""
        if timeout is not None:
            timeout = patience(timeout)
        left = self._wait(timeout) if self._state != FINISHED else 0
        if self._state == FINISHED and self._exception is None:
            return self._result
        try:
            return super().result(left)
        except TimeoutError as exc:
            if exc is self._exception:
                raise
            if not self.done():
                raise self._not_within(timeout or 0.0) from None
        return super().result(0)  # it has ended just now

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Its error, or None; waits. See `Future.exception`."""
        if timeout is not None:
            timeout = patience(timeout)
        left = self._wait(timeout) if self._state != FINISHED else 0
        if self._state == FINISHED:
            return self._exception
        try:
            return super().exception(left)
        except TimeoutError:
            if not self.done():
                raise self._not_within(timeout or 0.0) from None
        return super().exception(0)  # it has ended just now

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio  # not loaded by most programs

        return asyncio.wrap_future(self).__await__()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """See `Future.add_done_callback`; it may be called by any thread that waits."""
        callbacks = self._done_callbacks
        with _lock:
            if not self._heavy and not self.done():
                callbacks.append(fn)
                return
        super().add_done_callback(fn)

    def set_result(self, result: Any) -> None:
        """For who runs it."""
        if not self._finished(result, None):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For who runs it."""
        if not self._finished(None, exception):
            super().set_exception(exception)

    def _finished(self, result: Any, exception: BaseException | None) -> bool:
        """End it, and call its callbacks; False if it has a condition, which must be notified."""
        with _lock:
            if self._heavy:
                return False
            if self._state in ENDED:
                raise InvalidStateError(f"{self._state}: {self!r}")
            if exception is None:
                self._result = result
            else:  # only one is set, to save memory for a million tasks
                self._exception = exception
            self._state = FINISHED
        if self._called_back:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        return True
