"""Measure what has an executor's ``submit`` and ``map``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from benchmarks.peers.rates import TASKS, best_map, tasks_per_second
from benchmarks.peers.work import increment


class Pool(Protocol):
    """As much of an executor as is measured."""

    def submit(self, fn: Any, /, *args: Any) -> Any:
        """A future."""

    def map(self, fn: Any, /, *iterables: Any, chunksize: int) -> Iterable[Any]:
        """The results in order."""


def tasks_of(pool: Pool) -> dict[str, Any]:
    """The rates of plain submit and of map."""

    def submit(numbers: range) -> list[int]:
        futures = [pool.submit(increment, number) for number in numbers]
        return [future.result() for future in futures]

    def mapped(numbers: range, chunk: int) -> Iterable[int]:
        return pool.map(increment, numbers, chunksize=chunk)

    return {"submit_per_s": tasks_per_second(submit, TASKS), **best_map(mapped)}
