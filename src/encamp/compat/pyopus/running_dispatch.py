"""A running `OpusOS.dispatch`: it starts jobs as slots become free, and collects their results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from encamp.compat.pyopus.scheduler import Collect, Job, Scheduler

_AT_ONCE = 16
"""Jobs that are started before other tasks of this process get their turn."""
Collector = Generator[None, tuple[Any, ...], None]


@contextmanager
def started(collector: Collector | None) -> Iterator[None]:
    """Run a block that sends to a collector."""
    if collector is None:
        yield
        return
    next(collector)
    try:
        yield
    finally:
        collector.close()


class Dispatch:
    """A running `OpusOS.dispatch`; ``independent`` if no job depends on another's result."""

    def __init__(
        self,
        scheduler: Scheduler,
        collect: Callable[..., None],
        say: Callable[[str, Iterable[int]], None],
        *,
        remote: bool,
        independent: bool,
    ) -> None:
        self._scheduler, self._collected, self._say = scheduler, collect, say
        self._remote, self._independent = remote, independent
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
                    self._scheduler.take_back(self._running)
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
        vm = self._scheduler.vm
        if vm is None:
            return True
        if not self._remote:
            return vm.slots() < 2 or vm.freeSlots() <= 0
        room = vm.roomForJobs(self._independent) - len(self._scheduler.active.finishedChildren)
        if not self._scheduler.crowded:
            self._room = max(0, min(room, _AT_ONCE if self._independent else 1))
        return room <= 0

    def _spawn(self, index: int, job: Sequence[Any]) -> None:
        args = job[1] if len(job) > 1 else ()
        kwargs = job[2] if len(job) > 2 else {}
        call = Job(job[0], args, kwargs, remote=self._remote, independent=self._independent)
        tid = None
        if self._room:
            self._room -= 1
            tid = self._scheduler.start(call)
        if tid is None:
            tid = self._scheduler.call(call)
        self._running[tid] = index, job
        self._say(f"task {tid} was spawned", self._running)

    def _collect(self, *, block: bool) -> None:
        ended = self._scheduler.call(Collect(self._running, block))
        for child, (index, job) in [(ended[tid], self._running.pop(tid)) for tid in ended]:
            self._say(f"task {child.tid} was joined", self._running)
            if child.error is None:
                self._collected(index, job, child.remoteHostID, child.retval)
            elif self._error is None:
                self._error = child.error

    def _drop(self, *, wait: bool) -> None:
        """Cancel jobs that have not started, and wait for the others, whose results are dropped."""
        self._collected = lambda *_: None
        with suppress(Exception):  # the error that stopped the dispatch matters more
            self._scheduler.take_back(self._running)
            while wait and self._running:
                self._collect(block=True)
