"""Tasks that take turns in one process, and tasks that run elsewhere: spawn, join, dispatch.

``cOS`` is the only instance. Its calls ``Spawn``, ``Join`` and ``Yield`` let other tasks of this
process run; these tasks need greenlet (the extra ``cooperative``), remote ones do not.

Different from PyOPUS on purpose: the ``Join`` that collects a task raises the task's error, and the
errors of tasks that are not collected are printed when the program ends.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

import atexit
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from encamp.compat.pyopus.base import say, translateToAbstractPath, translateToActualPath
from encamp.compat.pyopus.scheduler import (
    Collect,
    Job,
    Join,
    Scheduler,
    Spawn,
    SysCall,
    Task,
    Yield,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from encamp.compat.pyopus.base import VirtualMachine

__all__ = ["Join", "OpusOS", "Scheduler", "Spawn", "SysCall", "Task", "Yield", "cOS"]

_AT_ONCE = 16
"""Jobs that are started before other tasks of this process get their turn."""
Collector = Generator[None, tuple[Any, ...], None]


class OpusOS:
    """The calls of a program to its scheduler; see `Scheduler` for what runs when."""

    def __init__(self, vm: VirtualMachine | None = None) -> None:
        self.scheduler = Scheduler(vm)
        self.debug = 0

    def __reduce__(self) -> str:
        return "cOS"  # remote tasks use the instance of their process

    def setVM(self, vm: VirtualMachine | None = None) -> None:
        """Run remote tasks on ``vm``; not while some run. Does nothing in its tasks."""
        self.scheduler.setVM(vm)

    def setDebug(self, debug: int = 0) -> None:
        """If above 0, debug messages are printed."""
        self.debug = debug
        self.scheduler.setDebug(debug)

    def slots(self) -> int:
        """The number of slots of the virtual machine; -1 without one."""
        vm = self.scheduler.vm
        return -1 if vm is None else vm.slots()

    def freeSlots(self) -> int:
        """The number of slots without an unjoined task; -1 without a machine."""
        vm = self.scheduler.vm
        return -1 if vm is None else vm.freeSlots()

    def finishedTasks(self) -> int:
        """How many children of this task have ended and are not joined; -1 without a machine."""
        return -1 if self.scheduler.vm is None else len(self.scheduler.active.finishedChildren)

    def getTid(self) -> int:
        """The number of this task."""
        return self.scheduler.active.tid

    def toAbstractPath(self, p: str) -> tuple[int, str]:
        """See `translateToAbstractPath`."""
        return translateToAbstractPath(p)

    def toActualPath(self, abstractPath: tuple[int | None, str]) -> str:
        """See `translateToActualPath`; returns the path unchanged if ``index`` is None."""
        index, path = abstractPath
        return path if index is None else translateToActualPath(index, path)

    def Spawn(self, *args: Any, **kwargs: Any) -> Any:
        """Start a task; see `Spawn`."""
        return self.scheduler.call(Spawn(*args, **kwargs))

    def Join(self, *args: Any, **kwargs: Any) -> dict[int, Any]:
        """Collect a task that has ended; see `Join`."""
        joined: dict[int, Any] = self.scheduler.call(Join(*args, **kwargs))
        return joined

    def Yield(self) -> None:
        """Let the other tasks run."""
        self.scheduler.call(Yield())

    def dispatch(
        self,
        jobList: Iterable[Sequence[Any]],
        collector: Collector | None = None,
        remote: bool = True,
        buildResultList: bool | None = None,
        collectHostIDs: bool = False,
    ) -> list[Any] | None:
        """Run jobs on all slots, each as soon as one is free; the results in the jobs' order.

        A job is ``(function, args, kwargs, anything…)``; only the function is required. The next
        job is taken from ``jobList`` when it can start, so it may depend on results that
        ``collector`` was sent. Without a collector, jobs that take less than 20 milliseconds are
        taken ahead of time, at most 100 for each slot.

        ``collector`` is a coroutine that is not started yet. Each result is sent to it as
        ``(index, job, result)``, with ``collectHostIDs`` also the host's id, and it is closed at
        the end. Then no list of results is returned, unless ``buildResultList`` asks for it.

        If a job raises an exception, no more are started; when the running ones have ended, it is
        raised. The arguments of a job may be changed once the next one is taken from ``jobList``.
        """
        wanted = collector is None or buildResultList is True
        results: dict[int, Any] = {}

        def collect(index: int, job: Sequence[Any], host: Any, result: Any) -> None:
            if wanted:
                results[index] = result
            if collector is not None:
                more = (host,) if collectHostIDs else ()
                collector.send((index, job, result, *more))

        with _started(collector):
            independent = collector is None  # without one, ``jobList`` cannot know results
            _Dispatch(self, collect, remote=remote, independent=independent).run(jobList)
        return [results[index] for index in sorted(results)] if wanted else None

    def dispatchSingle(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        remote: bool = True,
    ) -> Any:
        """Run a function in a slot, wait for it, and return its value."""
        tid = self.Spawn(function, args, kwargs or {}, remote=remote)
        return self.Join([tid])[tid]

    def finalize(self) -> None:
        """Print the errors of tasks that were not joined, and end the virtual machine."""
        self.scheduler.report_uncollected()
        if self.scheduler.vm is not None:
            self.scheduler.vm.finalize()


@contextmanager
def _started(collector: Collector | None) -> Iterator[None]:
    """Run a block that sends to a collector."""
    if collector is None:
        yield
        return
    next(collector)
    try:
        yield
    finally:
        collector.close()


class _Dispatch:
    """A running `OpusOS.dispatch`; ``independent`` if no job depends on another's result."""

    def __init__(
        self, system: OpusOS, collect: Callable[..., None], *, remote: bool, independent: bool
    ) -> None:
        self._os, self._collected, self._remote = system, collect, remote
        self._independent = independent
        self._running: dict[int, tuple[int, Sequence[Any]]] = {}
        """Number of a task → index, job."""
        self._error: BaseException | None = None
        self._room = 0
        """Jobs that may be started before other tasks of this process get their turn."""

    def run(self, jobs: Iterable[Sequence[Any]]) -> None:
        """Run all jobs; raises the first error of one."""
        try:
            for index, job in enumerate(jobs):
                self._spawn(index, job)
                if not self._room:
                    self._make_room()
                if self._error is not None:
                    self._os.scheduler.take_back(self._running)
                    break
            while self._running:
                self._collect(block=True)
        except BaseException as exc:
            self._drop(wait=isinstance(exc, Exception))
            raise
        if self._error is not None:
            raise self._error

    def _make_room(self) -> None:
        """Collect ended jobs, and wait until another job can start or an error has occurred."""
        self._collect(block=self._full())
        while self._full() and self._running and self._error is None:
            self._collect(block=True)

    def _full(self) -> bool:
        """Whether to wait for a result before the next job; notes how many may be started."""
        vm = self._os.scheduler.vm
        if not self._remote or vm is None:
            return self._os.slots() < 2 or self._os.freeSlots() <= 0
        room = vm.roomForJobs(self._independent) - self._os.finishedTasks()
        if not self._os.scheduler.crowded:
            self._room = max(0, min(room, _AT_ONCE if self._independent else 1))
        return room <= 0

    def _spawn(self, index: int, job: Sequence[Any]) -> None:
        args = job[1] if len(job) > 1 else ()
        kwargs = job[2] if len(job) > 2 else {}
        call = Job(job[0], args, kwargs, remote=self._remote, independent=self._independent)
        tid = None
        if self._room:
            self._room -= 1
            tid = self._os.scheduler.start(call)
        if tid is None:
            tid = self._os.scheduler.call(call)
        self._running[tid] = index, job
        self._say(f"task {tid} was spawned")

    def _collect(self, *, block: bool) -> None:
        ended = self._os.scheduler.call(Collect(self._running, block))
        for child, (index, job) in [(ended[tid], self._running.pop(tid)) for tid in ended]:
            self._say(f"task {child.tid} was joined")
            if child.error is None:
                self._collected(index, job, child.remoteHostID, child.retval)
            elif self._error is None:
                self._error = child.error

    def _drop(self, *, wait: bool) -> None:
        """Cancel jobs that have not started, and wait for the others, whose results are dropped."""
        self._collected = lambda *_: None
        with suppress(Exception):  # the error that stopped the dispatch matters more
            self._os.scheduler.take_back(self._running)
            while wait and self._running:
                self._collect(block=True)

    def _say(self, text: str) -> None:
        if self._os.debug:
            say("COS", f"{text}, running tasks: {[*self._running]}")


cOS = OpusOS()  # noqa: N816 - its name in PyOPUS
atexit.register(cOS.scheduler.report_uncollected)
