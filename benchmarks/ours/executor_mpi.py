"""encamp's executor on ranks, whose slots are processes of their own."""

from __future__ import annotations

import encamp
from benchmarks.peers.executors import tasks_of
from benchmarks.peers.launch import which_mpi
from benchmarks.peers.rates import Rates

if __name__ == "__main__":
    with encamp.Executor("mpi") as pool:
        found = tasks_of(pool)
    Rates("encamp", which_mpi(), **found).show()
