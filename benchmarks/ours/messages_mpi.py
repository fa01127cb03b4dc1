"""encamp's messages between the program, which is rank 0, and a task that runs in rank 1."""

from __future__ import annotations

from typing import Any

import encamp
from benchmarks.ours.tasks import echo
from benchmarks.peers.launch import which_mpi
from benchmarks.peers.rates import Rates, messages

if __name__ == "__main__":
    with encamp.Cluster("mpi", inline=True) as cluster:
        task = cluster.spawn(echo, notify=False)

        def exchange(message: Any) -> Any:
            """There and back."""
            cluster.send(task, message)
            got = cluster.receive()
            assert got is not None
            return got.message

        found = messages(exchange)
        cluster.send(task, None)
    Rates("encamp", which_mpi(), **found).show()
