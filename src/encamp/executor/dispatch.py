"""`Executor.dispatch`: jobs from a generator that may depend on earlier results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from inspect import GEN_CREATED, getgeneratorstate
from typing import Any

from encamp.cluster.scheduler import calls_ahead
from encamp.errors import BadJob, ClusterClosed
from encamp.executor.mapping import cancel_all

Job = Callable[[], Any] | Sequence[Any] | None
"""``(function, args, kwargs, …)``, where only the function is required and further items are the
user's own; or a function alone. None: no job until the next result arrives."""
Collector = Callable[[int, Any, Any], object] | Generator[Any, tuple[int, Any, Any], Any]
"""Receives index, job and result: a function as three arguments, a generator as one tuple."""

MOST_AHEAD = 100
"""Maximum number of jobs taken ahead for a slot, if ``prefetch`` is not given."""


@dataclass(frozen=True)
class Runner:
    """The part of an executor that a dispatch needs."""

    submit: Callable[..., Future[Any]]
    slots: Callable[[], int]
    """How many calls can run at the same time."""
    drive: Callable[[Callable[[], object]], object]
    """Waits until something is true, or the cluster is closed."""


class Dispatch:
    """One run of `Executor.dispatch`; see there."""

    def __init__(
        self,
        runner: Runner,
        jobs: Iterable[Job],
        prefetch: int | None,
        return_exceptions: bool,
        keep_results: bool,
    ) -> None:
        if prefetch is not None and prefetch < 0:
            raise ValueError("prefetch must be None or >= 0")
        self._runner = runner
        self._jobs = iter(jobs)
        self._prefetch = prefetch
        self._return_exceptions = return_exceptions
        self._keep = keep_results
        self._count = 0
        self._ahead = prefetch or 0
        self._results: list[Any] = []
        self._running: dict[Future[Any], tuple[int, Any]] = {}
        self._done: deque[Future[Any]] = deque()

    def run(self, collector: Collector | None) -> list[Any]:
        """Keep all slots busy until there are no more jobs."""
        sink = _Sink(collector)
        try:
            while not sink.full:
                self._fill()
                if not self._running:
                    break
                sink.put(*self._next())
        finally:
            cancel_all(reversed(self._running))
            sink.close()
        return self._results

    def _fill(self) -> None:
        """Ask for jobs while there is room. All results that have arrived are delivered before."""
        most = self._runner.slots() * (1 + self._ahead)
        while not self._done and len(self._running) < most:
            job = next(self._jobs, _NO_MORE)
            if job is _NO_MORE:
                return
            if job is None:
                if not self._running:
                    raise BadJob(f"job {self._count}", "waits for a result, but no job is running")
                return
            self._start(job)

    def _start(self, job: Any) -> None:
        function, args, kwargs = _call_of(job, self._count)
        task = self._runner.submit(function, *args, **kwargs)
        self._running[task] = self._count, job
        self._count += 1
        if self._keep:
            self._results.append(None)
        task.add_done_callback(self._done.append)

    def _next(self) -> tuple[int, Any, Any]:
        if not self._done:
            self._runner.drive(self._done.__len__)
            if not self._done:
                raise ClusterClosed
        task = self._done.popleft()
        index, job = self._running.pop(task)
        if self._prefetch is None:
            self._ahead = calls_ahead(task, MOST_AHEAD)
        result: Any = task.exception() if self._return_exceptions else None
        if result is None:
            result = task.result()
        if self._keep:
            self._results[index] = result
        return index, job, result


_NO_MORE: Any = object()


def _call_of(job: Any, index: int) -> tuple[Callable[..., Any], Iterable[Any], dict[str, Any]]:
    if callable(job):
        return job, (), {}
    if not isinstance(job, Sequence) or not job or not callable(job[0]):
        raise BadJob(f"job {index}", f"is {job!r}, neither a function nor (function, args, kwargs)")
    args: Any = job[1] if len(job) > 1 else ()
    kwargs: Any = job[2] if len(job) > 2 else {}
    if not isinstance(args, Iterable) or isinstance(args, str):
        raise BadJob(f"job {index}", f"has {args!r} as its args; write (function, (argument,))")
    if not isinstance(kwargs, dict):
        raise BadJob(f"job {index}", f"has {kwargs!r} as its kwargs, not a dict")
    return job[0], args, kwargs


class _Sink:
    """A collector of either kind, or none. ``full`` once a generator has returned."""

    def __init__(self, collector: Collector | None) -> None:
        self._generator = collector if isinstance(collector, Generator) else None
        self._function = None if isinstance(collector, Generator) else collector
        self.full = False
        if self._generator is not None and getgeneratorstate(self._generator) == GEN_CREATED:
            self.full = next(self._generator, _NO_MORE) is _NO_MORE

    def put(self, index: int, job: Any, result: Any) -> None:
        """Pass a result to the collector."""
        if self._function is not None:
            self._function(index, job, result)
        elif self._generator is not None:
            try:
                self._generator.send((index, job, result))
            except StopIteration:
                self.full = True

    def close(self) -> None:
        """Close the collector when there are no more results."""
        if self._generator is not None:
            self._generator.close()
