"""encamp's messages between the program and a task that runs in its PVM task."""

from __future__ import annotations

from typing import Any

import encamp
from benchmarks.ours.tasks import echo
from benchmarks.peers.rates import Rates, messages

if __name__ == "__main__":
    with encamp.Cluster("pvm", slots=1, machine="own", inline=True) as cluster:
        task = cluster.spawn(echo, notify=False)

        def exchange(message: Any) -> Any:
            """There and back."""
            cluster.send(task, message)
            got = cluster.receive()
            assert got is not None
            return got.message

        found = messages(exchange)
        cluster.send(task, None)
    Rates("encamp", **found).show()
