"""Tasks that take turns in one process, and tasks that run elsewhere: spawn, join, dispatch.

``cOS`` is the only instance. Its calls ``Spawn``, ``Join`` and ``Yield`` let other tasks of this
process run; these tasks need greenlet (the extra ``cooperative``), remote ones do not.

Different from PyOPUS on purpose: the ``Join`` that collects a task raises the task's error, and the
errors of tasks that are not collected are printed when the program ends.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

import atexit
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from encamp.compat.pyopus.base import say, translateToAbstractPath, translateToActualPath
from encamp.compat.pyopus.running_dispatch import Collector, Dispatch, started
from encamp.compat.pyopus.scheduler import Join, Scheduler, Spawn, SysCall, Task, Yield

if TYPE_CHECKING:
    from collections.abc import Callable

    from encamp.compat.pyopus.base import VirtualMachine

__all__ = ["Join", "OpusOS", "Scheduler", "Spawn", "SysCall", "Task", "Yield", "cOS"]


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

        with started(collector):
            independent = collector is None  # without one, ``jobList`` cannot know results
            Dispatch(
                self.scheduler, collect, self._say, remote=remote, independent=independent
            ).run(jobList)
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

    def _say(self, text: str, running: Iterable[int]) -> None:
        if self.debug:
            say("COS", f"{text}, running tasks: {[*running]}")


cOS = OpusOS()  # noqa: N816 - its name in PyOPUS
atexit.register(cOS.scheduler.report_uncollected)
