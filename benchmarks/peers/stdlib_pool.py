"""The standard library's process pool."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from benchmarks.peers.executors import tasks_of
from benchmarks.peers.rates import WORKERS, Rates

if __name__ == "__main__":
    with ProcessPoolExecutor(WORKERS) as pool:
        Rates("concurrent.futures", **tasks_of(pool)).show()
