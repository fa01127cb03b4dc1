"""loky's process pool."""

from __future__ import annotations

from loky import ProcessPoolExecutor

from benchmarks.peers.executors import tasks_of
from benchmarks.peers.rates import WORKERS, Rates

if __name__ == "__main__":
    with ProcessPoolExecutor(WORKERS) as pool:
        Rates("loky", **tasks_of(pool)).show()
