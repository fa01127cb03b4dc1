"""The parts of `Executor.map`: items in chunks, and results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future
from itertools import islice
from types import FunctionType
from typing import Any, TypeVar

from encamp.cluster.task import SpawnedTask, take_back, take_back_soon
from encamp.slot.run_function import called_for_each

T = TypeVar("T")
Chunks = tuple[Callable[..., list[T]], Iterator[tuple[Any, ...]]]
"""A function, and its arguments for each chunk."""

CHUNKS_PER_SLOT = 8
"""Chunks per slot if ``chunksize`` is not given: enough to even out slow ones."""
LARGEST_CHUNK = 1000
"""The most items of such a chunk; compared with these, the time for the task itself is
negligible."""


def good_size(
    iterables: tuple[Iterable[Any], ...], slots: int
) -> tuple[int, tuple[Iterable[Any], ...]]:
    """A good number of items for a chunk, and the iterables, whose lengths it may have to read."""
    known = tuple(items if isinstance(items, Sized) else list(items) for items in iterables)
    length = min((len(items) for items in known), default=0)
    size = -(-length // (CHUNKS_PER_SLOT * max(1, slots)))
    return max(1, min(size, LARGEST_CHUNK)), known


def chunked(fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], size: int) -> Chunks[T]:
    """Calls of ``fn`` for ``size`` items each."""
    if len(iterables) == 1:
        return _calls(fn, _each, _each_by_value, _slices(iterables[0], size))
    zipped = zip(*iterables, strict=False)
    return _calls(fn, _each_of_several, _each_of_several_by_value, _batches(zipped, size))


def _calls(
    fn: Callable[..., T],
    by_name: Callable[..., list[T]],
    by_value: Callable[[Callable[..., T]], Callable[..., list[T]]],
    chunks: Iterator[Any],
) -> Chunks[T]:
    """An importable function is sent with every chunk, any other one once to every slot."""
    if isinstance(fn, FunctionType) and (fn.__module__ == "__main__" or "<" in fn.__qualname__):
        return by_value(fn), ((chunk,) for chunk in chunks)
    return by_name, ((fn, chunk) for chunk in chunks)


def _each(function: Callable[..., T], items: Iterable[Any]) -> list[T]:
    return called_for_each(function, zip(items))


def _each_of_several(function: Callable[..., T], items: Iterable[Any]) -> list[T]:
    return called_for_each(function, items)


def _each_by_value(function: Callable[..., T]) -> Callable[..., list[T]]:
    return lambda items: called_for_each(function, zip(items))


def _each_of_several_by_value(function: Callable[..., T]) -> Callable[..., list[T]]:
    return lambda items: called_for_each(function, items)


def _slices(items: Any, size: int) -> Iterator[Any]:
    """The chunks of an iterable: slices if possible, as those of ranges and arrays are small."""
    kind = type(items)
    is_array = f"{kind.__module__}.{kind.__qualname__}" == "numpy.ndarray" and items.ndim > 0
    if is_array or kind in (range, list, tuple):
        return (items[at : at + size] for at in range(0, len(items), size))
    return _batches(iter(items), size)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


class Results(Iterator[T]):
    """Results in order.

    All ``calls`` are made now; or only ``ahead`` of them, and another one with each result.
    ``deadline`` as `time.monotonic` counts. Calls that have not started are cancelled after an
    error, by `close`, and, as in the standard pools, when the iterator is dropped after its first
    result; not before that, so that nobody has to read the results.
    """

    def __init__(
        self, calls: Iterator[Future[T]], ahead: int | None, deadline: float | None
    ) -> None:
        self._calls, self._deadline = calls, deadline
        self._waiting = deque(islice(calls, ahead))
        self._begun = False

    def __next__(self) -> T:
        self._begun = True
        if not self._waiting:
            raise StopIteration
        self._waiting.extend(islice(self._calls, 1))
        try:
            return _result(self._waiting.popleft(), self._deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel calls that have not started, and return no more results."""
        left = list(reversed(self._waiting))  # the last first, so that slots start none of them
        self._waiting.clear()
        self._calls = iter(())
        cancel_all(left)

    def __del__(self) -> None:
        if getattr(self, "_begun", False) and self._waiting:
            let_go(reversed(self._waiting))


def cancel_all(calls: Iterable[Future[Any]]) -> None:
    """Cancel calls that have not started; blocks while slots are asked."""
    tasks = []
    for call in calls:
        if isinstance(call, SpawnedTask):
            tasks.append(call)
        else:
            call.cancel()
    take_back(tasks)


def let_go(calls: Iterable[Future[Any]]) -> None:
    """`cancel_all` without blocking, even while the interpreter shuts down."""
    take_back_soon(call for call in calls if isinstance(call, SpawnedTask) and not call.done())


def _result(call: Future[T], deadline: float | None) -> T:
    try:
        return call.result(None if deadline is None else deadline - time.monotonic())
    finally:
        call.cancel()
        del call  # otherwise its error and this frame refer to each other


class Flat(Iterator[T]):
    """The items of all chunks; releases each item when it is returned."""

    def __init__(self, chunks: Results[list[T]]) -> None:
        self._chunks = chunks
        self._chunk: list[T] = []
        self.close = chunks.close

    def __next__(self) -> T:
        while not self._chunk:
            self._chunk = next(self._chunks)
            self._chunk.reverse()
        return self._chunk.pop()
