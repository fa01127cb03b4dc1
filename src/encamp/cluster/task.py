"""A spawned task as its user sees it: a `concurrent.futures.Future` with ``kill``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Protocol

from encamp.cluster.light import ENDED, FINISHED, PENDING, RUNNING, LightFuture
from encamp.errors import ClusterClosed, NotInTime, shortened

FORKED = "in a forked process, its parent's cluster"
"""The name of the closed cluster in errors of a forked process."""
_SHOWN = 1000
"""Characters of a result, and of its output, that a notebook shows."""


class Driven(Protocol):
    """What a future needs from the pump."""

    @property
    def elsewhere(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""

    def until(self, ready: Callable[[], object], timeout: float | None = None) -> bool:
        """Drive until that is true; False if the time is over."""


class Canceller(Protocol):
    """What a task's future may ask the cluster to do."""

    @property
    def pump(self) -> Driven:
        """The pump that brings its result."""

    def take_back_all(self, tasks: Iterable[SpawnedTask]) -> None:
        """Cancel tasks that have not started; from any thread, blocks while slots are asked."""

    def take_back_soon(self, tasks: Iterable[SpawnedTask]) -> None:
        """The same without waiting for it."""

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
        """Note how long a call took."""
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
        """Its name in messages and errors."""
        return self._named or f"task {self.id}"

    def cancel(self) -> bool:
        """Cancel it if it has not started; False if it runs or has ended, see `kill`."""
        if not self.done():
            self._canceller.take_back_all([self])
        return self.cancelled()

    def kill(self) -> None:
        """End it: a waiting task is cancelled, a running task fails with `TaskKilled`.

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

    def _begins(self, host: str, slot: int) -> None:
        """It runs there now."""
        self.host, self.slot = host, slot
        if self._state == PENDING:
            self._state = RUNNING

    def _waits_again(self) -> None:
        """Its slot has given it back."""
        if self._state == RUNNING:
            self._state = PENDING

    def __reduce__(self) -> str:
        raise TypeError(
            "a SpawnedTask cannot be pickled: it belongs to the program that "
            "spawned it; send its id"
        )

    def _not_within(self, seconds: float) -> NotInTime:
        return NotInTime(f"{self.name} has not ended", seconds, f"it is {self._standing()}")

    def _standing(self) -> str:
        """Its state; also where it runs, or why it does not."""
        state = self._state.lower()
        if self._state == PENDING:
            why = self._canceller.why_waits(self)
            return f"{state}: {why}" if why else state
        return f"{state} on {self.host}" if self.host else state

    def _repr_html_(self) -> str:
        from encamp.markup import box, heading, printed

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
    "SpawnedTask",
    "Timing",
    "take_back",
    "take_back_soon",
    "usual_seconds",
]
