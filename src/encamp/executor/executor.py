"""The executor: which submitted calls are not done yet, and how it shuts down.

Executor ── submit(function, …)        ──► Cluster ──► slots on hosts
  │         map(function, items)             its own, or a shared one
  │         dispatch(jobs, collector)
  └─ options(mirror=…, on=…)               a view of the same cluster with other options
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack
from weakref import WeakSet, finalize

from encamp.cluster.cluster import Cluster, port_of
from encamp.cluster.spawn_options import SpawnOptions, TaskOptions
from encamp.cluster.task import SpawnedTask, take_back
from encamp.errors import CannotTravel, ClusterClosed, InitializerFailed, UnsupportedByEngine
from encamp.executor.dispatch import Collector, Dispatch, Job, Runner
from encamp.executor.mapping import Flat, Results, chunked, good_size

if TYPE_CHECKING:
    from encamp.storage.inputs.mirror import MirrorMap
    from encamp.storage.outputs.patterns import OutputMap

P = ParamSpec("P")
T = TypeVar("T")


class Executor(futures.Executor):
    """Calls functions in a cluster's slots, with the interface of `concurrent.futures`.

    ``cluster`` is a `Cluster`, which stays open, or an engine for a new one (with ``slots`` and
    ``engine_options``), which is closed with the executor. ``initializer(*initargs)`` is called in
    every slot's process before its first task. Its changes to the process stay, while those of
    tasks are undone: environment, current folder, child processes. Globals of a script that it sets
    or fills are visible to the functions of this executor (but attributes of a script's classes are
    not). If it raises, the executor is broken: waiting tasks fail with `InitializerFailed`, and so
    does every later `submit`.

    The other options apply to all its tasks, see `Cluster.spawn`.

    It differs from the standard pools: a task whose process dies fails alone, with `TaskLost`, and
    all other tasks continue; a running task can be killed (``future.kill()``); lambdas, closures
    and functions of ``__main__`` can be submitted.

    Methods may be called from any thread. Raises the errors of `Cluster` and `Cluster.spawn`.
    """

    def __init__(
        self,
        cluster: Cluster | Any = "local",
        *,
        slots: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        mirror: MirrorMap = (),
        outputs: OutputMap = (),
        on_failure: OutputMap = (),
        to: str | Path | None = None,
        on: Any = None,
        persistent: bool = False,
        cores: int = 1,
        memory: int | str = 0,
        gpus: int = 0,
        time_limit: float | None = None,
        fresh: bool = False,
        **engine_options: Any,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._options = SpawnOptions(
            mirror=mirror,
            outputs=outputs,
            on_failure=on_failure,
            to=to,
            on=on,
            persistent=persistent,
            cores=cores,
            memory=memory,
            gpus=gpus,
            time_limit=time_limit,
            fresh=fresh,
            initializer=None if initializer is None else (initializer, tuple(initargs)),
        )
        self._need = self._options.need()
        self._shared = _Shared(cluster, slots, engine_options)
        self._options = replace(self._options, owner=_Owner(self._shared))
        self._root: Executor | None = None
        self._closed = False
        _OPEN.add(self)
        finalize(self, self._shared.close, wait=False).atexit = False

    @property
    def cluster(self) -> Cluster:
        """The cluster that runs the tasks."""
        return self._shared.cluster

    def options(self, **changes: Unpack[TaskOptions]) -> Executor:
        """An executor on the same cluster and slots with other options for its tasks.

        The returned executor ends together with this one. You may also shut it down alone.
        """
        view = object.__new__(type(self))
        view._shared, view._closed = self._shared, False
        view._root = self._root or self
        SpawnOptions.of(changes)
        view._options = replace(self._options, owner=_Owner(self._shared), **changes)
        view._need = view._options.need()
        return view

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` in a slot; returns a `SpawnedTask`.

        Does not wait for a free slot. Arguments are pickled when a slot is free, so do not change
        them until the call has ended. If they cannot be pickled, this future fails with
        `CannotTravel`. Raises `ClusterClosed`, a RuntimeError, after `shutdown`, and
        `InitializerFailed` if the executor is broken.
        """
        if not callable(fn):
            hint = "give the function and its arguments: submit(f, x), not submit(f(x))"
            return _failed(TypeError(f"{type(fn).__name__!r} object is not callable; {hint}"))
        shared = self._shared
        with shared.lock:
            shared.check(self._closed)
            try:
                task = shared.port.spawn(fn, args, kwargs, self._options)
            except CannotTravel as exc:
                return _failed(exc)
        if self._options.initializer is not None:
            task.add_done_callback(shared.ended)
        return task

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Results of ``fn`` for the items of ``iterables``, in their order.

        All calls are submitted at once. With ``buffersize=n``, n calls are submitted, and another
        one whenever a result is read. ``chunksize`` items make one task, which is faster for short
        calls; None chooses a good number. Raises the error of a call when its result is read, and
        TimeoutError when a result is not available ``timeout`` seconds after the call of `map`.
        Then, and when the iterator is closed, calls that have not started are cancelled.
        """
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or >= 1")
        if chunksize is None:
            chunksize, iterables = good_size(iterables, self._slots())
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1")
        deadline = None if timeout is None else time.monotonic() + timeout
        if chunksize == 1 or not iterables:
            singly = (self.submit(fn, *args) for args in zip(*iterables, strict=False))
            return Results(singly, buffersize, deadline)
        each, chunks = chunked(fn, iterables, chunksize)
        return Flat(Results((self.submit(each, *c) for c in chunks), buffersize, deadline))

    def dispatch(
        self,
        jobs: Iterable[Job],
        collector: Collector | None = None,
        *,
        prefetch: int | None = None,
        return_exceptions: bool = False,
        keep_results: bool = True,
    ) -> list[Any]:
        """Run jobs that may depend on earlier results; blocks; returns all results in order.

        A job is ``(function, args, kwargs, …)``; everything except the function is optional, and
        further items are not passed on. A function without arguments may stand alone.

        ``jobs`` is asked for the next job when there is room for it, and again after every result,
        even if it had none before. It may return None: no job until the next result arrives. There
        is room if a slot is free, and for ``prefetch`` waiting jobs per slot: use 0 for generators
        that should know as many results as possible. The default is 0 if jobs take long, and up to
        100 if slots would have to wait for the next job.

        ``collector(index, job, result)`` is called for every job as it ends, in this thread and
        before the next job is asked for. A generator gets all three as one tuple by ``yield``, and
        is closed at the end. If it returns earlier, no more jobs are started, and missing results
        are None.

        The first error of a job, ``jobs`` or ``collector`` ends everything: jobs that have not
        started are cancelled, and the error is raised. With ``return_exceptions`` the error of a
        job takes the place of its result. Without ``keep_results`` the list is empty, for endless
        jobs whose results only the collector needs.
        """
        runner = Runner(self.submit, self._slots, self._shared.port.pump.until)
        run = Dispatch(runner, jobs, prefetch, return_exceptions, keep_results)
        return run.run(collector)

    def _slots(self) -> int:
        """How many of its tasks can run at the same time."""
        return self._shared.port.room_for(self._need)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks, and release everything when the submitted ones are done.

        With ``wait`` blocks until then. ``cancel_futures`` cancels tasks that have not started. May
        be called again, for example to wait after all.
        """
        shared = self._shared
        if shared.port.forked:  # in a forked process, nothing is left of it
            return
        with shared.lock:
            self._closed = True
            shared.closed = shared.closed or self._root is None
        mine = shared.pending(None if self._root is None else self._options.owner)
        if cancel_futures:
            take_back(reversed(mine))
        if wait:
            for task in mine:
                with suppress(CancelledError):
                    task.exception()
        if self._root is None:
            if wait:
                shared.forget(self._options.initializer)
            shared.close(wait)
            _OPEN.discard(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for all tasks; after Ctrl-C and similar, end them, while the standard pools wait."""
        if kind is not None and not issubclass(kind, Exception):
            self._kill()
        self.shutdown()

    def _kill(self) -> None:
        """Cancel or kill all tasks of an executor, as far as possible."""
        if self._shared.is_ours and self._root is None:
            self._shared.cluster.close(cancel=True)
            return
        for task in self._shared.pending(None if self._root is None else self._options.owner):
            with suppress(UnsupportedByEngine):
                task.kill()


def answering(executor: Executor, answer: Callable[[Any], Any]) -> Executor:
    """`Executor.options` for tasks whose questions a function of the caller answers."""
    view = executor.options()
    view._options = replace(view._options, answer=answer)
    return view


def dispatch(
    jobs: Iterable[Job],
    collector: Collector | None = None,
    cluster: Any = "local",
    *,
    prefetch: int | None = None,
    return_exceptions: bool = False,
    keep_results: bool = True,
    **options: Any,
) -> list[Any]:
    """`Executor.dispatch` on a new executor: ``Executor(cluster, **options)``."""
    with Executor(cluster, **options) as executor:
        return executor.dispatch(
            jobs,
            collector,
            prefetch=prefetch,
            return_exceptions=return_exceptions,
            keep_results=keep_results,
        )


_OPEN: WeakSet[Executor] = WeakSet()


def _wait_for_all() -> None:
    """Wait for submitted tasks before the program ends, as the standard pools do."""
    for executor in list(_OPEN):
        if executor._shared.port.forked:
            continue
        try:
            executor.shutdown()
        except KeyboardInterrupt:
            executor._kill()


def _forked() -> None:
    """In a forked process, replace locks, which another thread of the parent may have held."""
    for executor in list(_OPEN):
        executor._shared.lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)
# Called before `atexit`, as in the standard pools, and so before clusters are closed.
threading._register_atexit(_wait_for_all)  # type: ignore[attr-defined]


class _Owner:
    """Marks the tasks of one executor."""

    __slots__ = ("shared",)

    def __init__(self, shared: _Shared) -> None:
        self.shared = shared


class _Shared:
    """State that an executor shares with those that `options` returns."""

    def __init__(self, cluster: Any, slots: int | None, engine_options: dict[str, Any]) -> None:
        self.is_ours = not isinstance(cluster, Cluster)
        if not self.is_ours and (slots is not None or engine_options):
            given = ", ".join([*["slots"] * (slots is not None), *engine_options])
            raise TypeError(f"an existing cluster takes no {given}")
        self.cluster = Cluster(cluster, slots=slots, **engine_options) if self.is_ours else cluster
        self.port = port_of(self.cluster)
        self.lock = threading.RLock()  # pickling an argument may submit something
        self.closed = False
        self._broken: InitializerFailed | None = None
        self._closing: threading.Thread | None = None

    def check(self, closed: bool) -> None:
        """Raise the reason why nothing can be submitted, if there is one."""
        if self._broken is not None:
            raise self._broken.with_facts() from self._broken
        if self.closed or closed:
            raise ClusterClosed("the executor")

    def ended(self, task: Future[Any]) -> None:
        """Check whether a task has failed because of the initializer."""
        if self._broken or task.cancelled():
            return
        error = task.exception()
        if isinstance(error, InitializerFailed):
            self._broken = error
            self.port.fail_waiting(self.owns, error)  # running tasks fail by themselves

    def pending(self, owner: object = None) -> list[SpawnedTask]:
        """The tasks that are not done, all or those of one ``owner``; may block for a moment."""
        return self.port.pending(self.owns if owner is None else lambda found: found is owner)

    def owns(self, owner: object) -> bool:
        """Whether tasks with this owner are the executor's."""
        return isinstance(owner, _Owner) and owner.shared is self

    def forget(self, initializer: object) -> None:
        """Let a shared cluster drop an initializer that no task needs any more."""
        if initializer is not None and not self.is_ours:
            self.port.forget(initializer)

    def close(self, wait: bool) -> None:
        """Close the executor's own cluster, here or in the background."""
        if not self.is_ours:
            return
        with self.lock:
            if self._closing is None and not wait:
                self._closing = threading.Thread(target=self.cluster.close, name="encamp-shutdown")
                self._closing.start()
        if self._closing is not None and wait:
            self._closing.join()
        elif wait:
            self.cluster.close()


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future
