"""A task: a `concurrent.futures.Future` that is light while it waits, and can be killed."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from encamp.cluster.light import FINISHED, PENDING, RUNNING, LightFuture
from encamp.errors import ClusterClosed, shortened

if TYPE_CHECKING:
    from encamp.cluster.controller import Controller
    from encamp.cluster.functions import Function
    from encamp.cluster.options import Options

FORKED = "in a forked process, its parent's cluster"
"""What is closed there: whatever else it did would take something from its parent."""
_SHOWN = 1000
"""Characters of a result, and of its output, that a notebook shows."""


class Task(LightFuture):
    """A call on a cluster, and what comes of it.

    All that a `concurrent.futures.Future` has, and: ``id``, a number that messages are sent to;
    ``host`` and ``slot`` where it runs or ran (None before); ``output``, what it has printed (a
    mebibyte of it, see `Cluster`); `kill`. It can be awaited. An error that the call raised comes
    as itself, with a `RemoteTraceback` as its cause.
    """

    host: str | None = None
    slot: int | None = None
    output: str = ""
    _mark = (0, 0)
    """How far it had come when its process died, if it has noted that."""
    _end: str = ""
    _unwanted: bool = False
    """Whether it is to be cancelled if its slot gives it back."""
    _place: Any = None
    _parts: Any = None
    """The pickle of its arguments, where that was made when it was spawned."""
    _devices: tuple[str, ...] = ()
    _decoder: Any = None
    """Of what it prints while it runs: characters may come in parts."""
    _told = 0
    """Bytes of its output that were told."""

    def __init__(
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

    def cancel(self) -> bool:
        """Take it back if it has not begun; False if it runs or has ended, see `kill`."""
        return self.cancelled() or (not self.done() and self._controller.recalls.take_back(self))

    def kill(self) -> None:
        """End it wherever it is: one that waits is cancelled, one that runs fails (`TaskKilled`).

        Returns at once; nothing happens to one that has ended. Raises `UnsupportedByEngine` where
        tasks run in agents themselves.
        """
        if not self.done() and not self.cancel():
            self._controller.recalls.kill(self)

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

    def _begins(self) -> None:
        """It is at the head of its slot's queue now."""
        if self._state == PENDING:
            self._state = RUNNING

    def _waits_again(self) -> None:
        """It was given back by its slot."""
        if self._state == RUNNING:
            self._state = PENDING

    def _let_go(self) -> None:
        """It has ended: what takes memory is not kept."""
        self._arguments, self._function = None, self._function.emptied()
        if self._parts is not None:
            self._parts = None

    def __reduce__(self) -> str:
        raise TypeError("a Task belongs to the program that has spawned it: send its id")

    def _repr_html_(self) -> str:
        from encamp.markup import box, escaped, heading

        where = f" on {self.host}, slot {self.slot}" if self.host else ""
        state = self._state.lower()
        if self._exception is not None:
            state = f"failed{where}: {type(self._exception).__name__}: {self._exception}"
        elif self._state == FINISHED:
            state = f"done{where}: {shortened(repr(self._result), _SHOWN)}"
        else:
            state += where
        output = self.output[-_SHOWN:]
        printed = f"<pre>{escaped(output, _SHOWN)}</pre>" if output else ""
        return box(heading(self.name, state), printed)

    def __repr__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        return f"<{self.name}: {self._state.lower()}{where}>"


__all__ = ["CancelledError", "Task"]
