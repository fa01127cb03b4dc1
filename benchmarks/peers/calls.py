"""How calls of remote objects are measured, for every peer alike, and the line that it prints."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.peers.rates import ARRAY_BYTES, SHARE_OF_USUAL

CALLS = max(20, int(2000 * SHARE_OF_USUAL))
AHEAD = max(50, int(10_000 * SHARE_OF_USUAL))
ARRAYS = max(2, int(20 * SHARE_OF_USUAL))
BROADCASTS = max(5, int(200 * SHARE_OF_USUAL))
EXCHANGES = max(5, int(200 * SHARE_OF_USUAL))
PASSES = 3
MANY = 8
"""Servers of a broadcast, and of a replica exchange."""


class Counter:
    """What is called."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def same(self, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class CallRates:
    """What was measured of one peer; None for what it has not."""

    peer: str
    calls_per_s: float | None = None
    """One by one, each waited for."""
    ahead_per_s: float | None = None
    """Sent ahead, the last one waited for."""
    acquired_per_s: float | None = None
    """Acquired, called and released, each waited for."""
    broadcast_us: float | None = None
    """A call of each of 8 servers, all waited for."""
    call_us: float | None = None
    """One call of one of these."""
    array_mb_per_s: float | None = None
    """10 MB there and back."""
    exchanges_per_s: float | None = None
    """Rounds of a replica exchange of 8 servers: scatter, gather, broadcast, gather."""

    def show(self) -> None:
        """Print the line."""
        print(json.dumps(asdict(self)), flush=True)


def per_second(run: Callable[[int], object], count: int) -> float:
    """The median rate of some passes of ``count``, after one to warm up."""
    run(max(1, count // 10))
    return count / statistics.median(_seconds(lambda: run(count)) for _ in range(PASSES))


def microseconds(run: Callable[[], object], count: int) -> float:
    """The median time of many."""
    for _ in range(max(1, count // 10)):
        run()
    return statistics.median(_seconds(run) for _ in range(count)) * 1e6


def array_rate(same: Callable[[Any], Any]) -> float:
    """Megabytes a second, one way, of an array that goes there and comes back."""
    array = np.arange(ARRAY_BYTES, dtype=np.uint8)
    if not np.array_equal(same(array), array):
        raise ValueError("the array came back changed")
    seconds = statistics.median(_seconds(lambda: same(array)) for _ in range(ARRAYS))
    return 2 * ARRAY_BYTES / 1e6 / seconds


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
