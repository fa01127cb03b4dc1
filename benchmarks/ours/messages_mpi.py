"""encamp's messages between the program, which is rank 0, and a task that runs in rank 1."""

from __future__ import annotations

import encamp
from benchmarks.ours.tasks import messages_with_a_task
from benchmarks.peers.launch import which_mpi
from benchmarks.peers.rates import Rates

if __name__ == "__main__":
    with encamp.Cluster("mpi", inline=True) as cluster:
        found = messages_with_a_task(cluster)
    Rates("encamp", which_mpi(), **found).show()
