"""How long an executor takes from its making to a first result, and to its end.

    python -m benchmarks.ours.starting POOL

POOL is "encamp" or "stdlib".
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor

import encamp
from benchmarks.peers.rates import PASSES, WORKERS
from benchmarks.peers.work import increment


def _opened(name: str) -> Executor:
    return encamp.Executor(slots=WORKERS) if name == "encamp" else ProcessPoolExecutor(WORKERS)


def _once(name: str) -> tuple[float, float]:
    start = time.perf_counter()
    pool = _opened(name)
    futures = [pool.submit(increment, number) for number in range(WORKERS)]
    assert [future.result() for future in futures] == [1, 2]
    begun = time.perf_counter()
    pool.shutdown()
    return begun - start, time.perf_counter() - begun


if __name__ == "__main__":
    times = [_once(sys.argv[1]) for _ in range(PASSES)]
    start_s, close_s = (statistics.median(each) for each in zip(*times, strict=True))
    print(json.dumps({"start_s": start_s, "close_s": close_s}))
