"""How every peer is measured, and the line that it prints."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

WORKERS = 2
SHARE = "ENCAMP_BENCH_SHARE"
"""Environment variable: which part of the usual number of tasks, items and messages to take."""
SHARE_OF_USUAL = float(os.environ.get(SHARE, "1"))
TASKS = int(4000 * SHARE_OF_USUAL)
ITEMS = int(200_000 * SHARE_OF_USUAL)
CHUNKS = (100, 1000, 5000)
PASSES = 3
MOMENT = 0.4 * SHARE_OF_USUAL
"""Seconds that a pass takes at least: quick ones are measured as long as slow ones."""
ROUND_TRIPS = int(3000 * SHARE_OF_USUAL)
ARRAYS = max(1, int(30 * SHARE_OF_USUAL))

SMALL = ("ping", 1)
ARRAY_BYTES = 10_000_000

Results = Iterable[int]


@dataclass(frozen=True)
class Rates:
    """What was measured of one peer; None for what it has not, or was not asked for."""

    peer: str
    mpi: str | None = None
    submit_per_s: float | None = None
    map_per_s: float | None = None
    map_chunk: int | None = None
    round_trip_us: float | None = None
    array_mb_per_s: float | None = None

    def show(self) -> None:
        """Print the line."""
        print(json.dumps(asdict(self)), flush=True)


def tasks_per_second(run: Callable[[range], Results], count: int) -> float:
    """The median rate of some passes of ``count`` tasks or as many as take a moment."""
    count = max(count, int(_rate(run, count) * MOMENT))
    return statistics.median([_rate(run, count) for _ in range(PASSES)])


def _rate(run: Callable[[range], Results], count: int) -> float:
    start = time.perf_counter()
    results = list(run(range(count)))
    seconds = time.perf_counter() - start
    if results != list(range(1, count + 1)):
        raise ValueError(f"{count} tasks gave wrong results")
    return count / seconds


def best_map(run: Callable[[range, int], Results]) -> dict[str, Any]:
    """The rate with the chunk size that serves the peer best."""
    found = {chunk: _map_rate(run, chunk) for chunk in CHUNKS}
    best = max(found, key=lambda chunk: found[chunk])
    return {"map_per_s": found[best], "map_chunk": best}


def _map_rate(run: Callable[[range, int], Results], chunk: int) -> float:
    return tasks_per_second(lambda numbers: run(numbers, chunk), ITEMS)


def messages(exchange: Callable[[Any], Any]) -> dict[str, Any]:
    """Round trip of a small object, one-way rate of an array; ``exchange`` goes there and back."""
    array = np.arange(ARRAY_BYTES, dtype=np.uint8)
    seconds = _round_trip(exchange, array, ARRAYS)
    if not np.array_equal(exchange(array), array):
        raise ValueError("the array came back changed")
    return {
        "round_trip_us": _round_trip(exchange, SMALL, ROUND_TRIPS) * 1e6,
        "array_mb_per_s": ARRAY_BYTES / 1e6 / (seconds / 2),
    }


def _round_trip(exchange: Callable[[Any], Any], message: Any, count: int) -> float:
    for _ in range(count // 10):
        exchange(message)
    times = []
    for _ in range(count):
        start = time.perf_counter()
        exchange(message)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
