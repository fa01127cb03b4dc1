"""A task: a `concurrent.futures.Future` that is light while it waits, and can be killed.

A standard future has a lock, a condition and a queue of its own, more than a kilobyte. Here these
are made when somebody waits for the task; until then a lock of all tasks guards what changes.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from encamp.errors import ClusterClosed

if TYPE_CHECKING:
    from encamp.cluster.controller import Controller
    from encamp.cluster.functions import Function
    from encamp.cluster.options import Options

_PENDING, _RUNNING, _FINISHED = "PENDING", "RUNNING", "FINISHED"
_CANCELLED = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
_ENDED = (*_CANCELLED, _FINISHED)
FORKED = "in a forked process, its parent's cluster"
"""What is closed there: whatever else it did would take something from its parent."""
_lock = threading.Lock()


def _forked() -> None:
    """Another thread of the process that this one was forked from may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class _Made:
    """An attribute that is made when somebody looks for it, for the standard library's code.

    ``flag`` is the attribute that tells that it was: to look into ``__dict__`` would make one.
    """

    def __init__(self, make: Callable[[], Any], flag: str) -> None:
        self._make, self._flag = make, flag

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, task: Task | None, owner: type) -> Any:
        if task is None:
            return self
        with _lock:
            setattr(task, self._flag, True)
            return task.__dict__.setdefault(self._name, self._make())


class Task(Future[Any]):
    """A call on a cluster, and what comes of it.

    All that a `concurrent.futures.Future` has, and: ``id``, a number that messages are sent to;
    ``host`` and ``slot`` where it runs or ran (None before); ``output``, what it has printed (a
    mebibyte of it, see `Cluster`); `kill`. It can be awaited. An error that the call raised comes
    as itself, with a `RemoteTraceback` as its cause.
    """

    host: str | None = None
    slot: int | None = None
    output: str = ""
    _state = _PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _end: str = ""
    _unwanted: bool = False
    """Whether it is to be cancelled if its slot gives it back."""
    _place: Any = None
    _devices: tuple[str, ...] = ()
    _decoder: Any = None
    """Of what it prints while it runs: characters may come in parts."""
    _told = 0
    """Bytes of its output that were told."""
    _heavy = False
    """Whether it has a condition, so that others may wait by it."""
    _called_back = False
    """Whether it has callbacks."""
    _condition = _Made(threading.Condition, "_heavy")
    _waiters = _Made(list, "_heavy")
    _done_callbacks = _Made(list, "_called_back")

    def __init__(  # not the base's: see the module's head
        self,
        number: int,
        controller: Controller,
        function: Function,
        arguments: tuple[Any, ...],
        options: Options,
    ) -> None:
        self.id = number
        self._controller = controller
        self._function = function
        self._arguments: Any = arguments
        self._options = options

    @property
    def name(self) -> str:
        """What it is called in messages and errors."""
        return self._options.name or f"task {self.id}"

    @property
    def label(self) -> str:
        """What errors call it, which put "task" before it."""
        return self._options.name or str(self.id)

    def done(self) -> bool:
        """Whether it has ended in any way."""
        return self._state in _ENDED

    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._state == _RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled before it began."""
        return self._state in _CANCELLED

    def cancel(self) -> bool:
        """Take it back if it has not begun; False if it runs or has ended, see `kill`."""
        return self.cancelled() or (not self.done() and self._controller.recalls.take_back(self))

    def _cancelled(self) -> None:
        """For the cluster: it was taken back."""
        super().cancel()
        super().set_running_or_notify_cancel()

    def kill(self) -> None:
        """End it wherever it is: one that waits is cancelled, one that runs fails (`TaskKilled`).

        Returns at once; nothing happens to one that has ended. Raises `UnsupportedByEngine` where
        tasks run in agents themselves.
        """
        if not self.done() and not self.cancel():
            self._controller.recalls.kill(self)

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned; waits, and raises what it raised. See `Future.result`."""
        left = self._wait(timeout) if self._state != _FINISHED else 0
        if self._state == _FINISHED and self._exception is None:
            return self._result
        return super().result(left)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None; waits. See `Future.exception`."""
        left = self._wait(timeout) if self._state != _FINISHED else 0
        if self._state == _FINISHED:
            return self._exception
        return super().exception(left)

    def _wait(self, timeout: float | None) -> float | None:
        """Wait; seconds that are left, in which whoever closes the cluster ends the task."""
        if self.done():
            return 0
        deadline = None if timeout is None else time.monotonic() + timeout
        pump = self._controller.pump
        pump.until(self.done, timeout)
        if pump.elsewhere and not self.done():
            raise ClusterClosed(FORKED)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def __await__(self) -> Generator[Any, None, Any]:
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
        """For the cluster."""
        if not self._finished(result, None):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For the cluster."""
        if not self._finished(None, exception):
            super().set_exception(exception)

    def _finished(self, result: Any, exception: BaseException | None) -> bool:
        """End it, and call its callbacks; False where its condition has to be told."""
        with _lock:
            if self._heavy:
                return False
            if self._state in _ENDED:
                raise InvalidStateError(f"{self._state}: {self!r}")
            if exception is None:
                self._result = result
            else:  # not both: what all of a million tasks have takes memory
                self._exception = exception
            self._state = _FINISHED
        if self._called_back:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def _begins(self) -> None:
        """It is at the head of its slot's queue now."""
        if self._state == _PENDING:
            self._state = _RUNNING

    def _waits_again(self) -> None:
        """It was given back by its slot."""
        if self._state == _RUNNING:
            self._state = _PENDING

    def __reduce__(self) -> str:
        raise TypeError("a Task belongs to the program that has spawned it: send its id")

    def __repr__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        return f"<{self.name}: {self._state.lower()}{where}>"


__all__ = ["CancelledError", "Task"]
