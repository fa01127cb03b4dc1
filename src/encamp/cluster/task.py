"""A spawned task as its user sees it: a `concurrent.futures.Future` with ``kill``.

A standard future has its own lock, condition and queue, more than a kilobyte. Those here create
them when a thread waits; until then one lock for all futures protects the state.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Protocol

from encamp.errors import ClusterClosed, NotInTime, shortened
from encamp.number_checks import patience

FORKED = "in a forked process, its parent's cluster"
"""The name of the closed cluster in errors of a forked process."""
_SHOWN = 1000
"""Characters of a result, and of its output, that a notebook shows."""
PENDING, RUNNING, FINISHED = "PENDING", "RUNNING", "FINISHED"
CANCELLED = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
ENDED = (*CANCELLED, FINISHED)
_lock = threading.Lock()


def _forked() -> None:
    """In a forked process: replace the lock, which another thread of the parent may hold."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class _Lazy:
    """An attribute that is created when it is first read, by code of the standard library.

    ``flag`` is the attribute for this: reading ``__dict__`` would create a dictionary.
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
    has_callbacks = False
    """Whether it has callbacks."""
    _condition = _Lazy(threading.Condition, "_heavy")
    _waiters = _Lazy(list, "_heavy")
    _done_callbacks = _Lazy(list, "has_callbacks")

    def __init__(self) -> None:  # without the base's: see the module's docstring
        pass

    def _wait(self, timeout: float | None) -> float | None:
        """Wait until it is done, or for ``timeout`` seconds; returns the seconds left."""
        raise NotImplementedError

    def _not_within(self, seconds: float) -> NotInTime:
        """The error of a wait that timed out."""
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

    def result(self, timeout: float | None = None) -> Any:
        """The task's result; waits, and raises the error of the call. See `Future.result`."""
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
        """The task's error, or None; waits. See `Future.exception`."""
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
        import asyncio  # imported here, because few programs need it

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
        """For the code that runs it."""
        if not self._finished(result, None):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For the code that runs it."""
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
        if self.has_callbacks:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        return True


class Driven(Protocol):
    """The part of the pump that a future needs."""

    @property
    def elsewhere(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""

    def until(self, ready: Callable[[], object], timeout: float | None = None) -> bool:
        """Drive until that is true; False on timeout."""


class Canceller(Protocol):
    """The part of the cluster that a task's future may call."""

    @property
    def pump(self) -> Driven:
        """The pump that brings its result."""

    def take_back_all(self, tasks: Iterable[SpawnedTask]) -> None:
        """Cancel tasks that have not started; from any thread, blocks while slots are asked."""

    def take_back_soon(self, tasks: Iterable[SpawnedTask]) -> None:
        """The same without waiting."""

    def kill(self, task: SpawnedTask) -> None:
        """End a running task; from any thread."""

    def why_waits(self, task: SpawnedTask) -> str:
        """Why a task has not begun, in words, empty if that is not known; from any thread."""


class Timing:
    """How long the calls of one function take."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = -1.0
        """Below 0 if unknown."""

    def took(self, seconds: float) -> None:
        """Record how long a call took."""
        known = self.seconds
        self.seconds = seconds if known < 0 else known + 0.2 * (seconds - known)


class SpawnedTask(LightFuture):
    """A call on a cluster, and its result.

    It has everything of a `concurrent.futures.Future`, and: ``id``, the number to send messages to;
    ``host`` and ``slot``, where it runs or ran (None before); ``output``, what it has printed (a
    mebibyte of it, see `Cluster`); `kill`. It can be awaited. An error of the call is raised with a
    `RemoteTraceback` as its cause.
    """

    host: str | None = None
    slot: int | None = None
    output: str = ""

    def __init__(self, number: int, name: str, timing: Timing, canceller: Canceller) -> None:
        self.id = number
        self._named = name
        self._timing = timing
        self._canceller = canceller

    @property
    def name(self) -> str:
        """The task's name in messages and errors."""
        return self._named or f"task {self.id}"

    def cancel(self) -> bool:
        """Cancel the task if it has not started; False if it runs (see `kill`) or has ended."""
        if not self.done():
            self._canceller.take_back_all([self])
        return self.cancelled()

    def kill(self) -> None:
        """End the task: a waiting task is cancelled, a running task fails with `TaskKilled`.

        Returns at once; does nothing if the task has ended. Raises `UnsupportedByEngine` if tasks
        run in agents themselves.
        """
        if not self.done() and not self.cancel():
            self._canceller.kill(self)

    def _wait(self, timeout: float | None) -> float | None:
        """Wait; returns the seconds that are left."""
        if self._state in ENDED:
            return 0
        deadline = None if timeout is None else time.monotonic() + timeout
        pump = self._canceller.pump
        pump.until(self.done, timeout)
        if pump.elsewhere and not self.done():
            raise ClusterClosed(FORKED)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def __reduce__(self) -> str:
        raise TypeError(
            "a SpawnedTask cannot be pickled: it belongs to the program that "
            "spawned it; send its id"
        )

    def _not_within(self, seconds: float) -> NotInTime:
        return NotInTime(f"{self.name} has not ended", seconds, f"it is {self._standing()}")

    def _standing(self) -> str:
        """The task's state, and where it runs, or why it does not."""
        state = self._state.lower()
        if self._state == PENDING:
            why = self._canceller.why_waits(self)
            return f"{state}: {why}" if why else state
        return f"{state} on {self.host}" if self.host else state

    def _repr_html_(self) -> str:
        from encamp.notebook_html import box, heading, printed

        where = f" on {self.host}, slot {self.slot}" if self.host else ""
        if self._exception is not None:
            state = f"failed{where}: {type(self._exception).__name__}: {self._exception}"
        elif self._state == FINISHED:
            state = f"done{where}: {shortened(repr(self._result), _SHOWN)}"
        else:
            state = self._standing()
        return box(heading(self.name, state), printed(self.output, _SHOWN))

    def __repr__(self) -> str:
        return f"<{self.name}: {self._standing()}>"


def begins(task: SpawnedTask, host: str, slot: int) -> None:
    """Record that the task runs there now."""
    task.host, task.slot = host, slot
    if task._state == PENDING:
        task._state = RUNNING


def waits_again(task: SpawnedTask) -> None:
    """Record that the slot has given the task back."""
    if task._state == RUNNING:
        task._state = PENDING


def set_cancelled(task: SpawnedTask) -> None:
    """Record that the task was taken back before it started."""
    Future.cancel(task)
    task.set_running_or_notify_cancel()


def usual_seconds(task: SpawnedTask) -> float:
    """How long calls of the task's function took lately; below 0 if none has ended."""
    return task._timing.seconds


def take_back(tasks: Iterable[SpawnedTask]) -> None:
    """Cancel those of a cluster's tasks that have not started; blocks while slots are asked."""
    tasks = list(tasks)
    if tasks:
        tasks[0]._canceller.take_back_all(tasks)


def take_back_soon(tasks: Iterable[SpawnedTask]) -> None:
    """`take_back` without waiting."""
    tasks = list(tasks)
    if tasks:
        tasks[0]._canceller.take_back_soon(tasks)


__all__ = [
    "FORKED",
    "CancelledError",
    "Canceller",
    "LightFuture",
    "SpawnedTask",
    "Timing",
    "begins",
    "set_cancelled",
    "take_back",
    "take_back_soon",
    "usual_seconds",
    "waits_again",
]
