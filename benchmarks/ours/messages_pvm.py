"""encamp's messages between the program and a task that runs in its PVM task."""

from __future__ import annotations

import encamp
from benchmarks.ours.tasks import messages_with_a_task
from benchmarks.peers.rates import Rates

if __name__ == "__main__":
    with encamp.Cluster("pvm", slots=1, machine="own", inline=True) as cluster:
        found = messages_with_a_task(cluster)
    Rates("encamp", **found).show()
