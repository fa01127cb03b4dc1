"""encamp's executor on the processes of this host."""

from __future__ import annotations

import encamp
from benchmarks.peers.executors import tasks_of
from benchmarks.peers.rates import WORKERS, Rates

if __name__ == "__main__":
    with encamp.Executor("local", slots=WORKERS) as pool:
        Rates("encamp", **tasks_of(pool)).show()
