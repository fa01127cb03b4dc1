"""Measure what is a ``concurrent.futures.Executor``."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

from benchmarks.peers.rates import TASKS, best_map, tasks_per_second
from benchmarks.peers.work import increment


def tasks_of(pool: Executor) -> dict[str, Any]:
    """The rates of plain submit and of map."""

    def submit(numbers: range) -> list[int]:
        futures = [pool.submit(increment, number) for number in numbers]
        return [future.result() for future in futures]

    def mapped(numbers: range, chunk: int) -> Iterable[int]:
        return pool.map(increment, numbers, chunksize=chunk)

    return {"submit_per_s": tasks_per_second(submit, TASKS), **best_map(mapped)}
