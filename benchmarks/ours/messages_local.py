"""encamp's messages between two tasks in slots of one host."""

from __future__ import annotations

import encamp
from benchmarks.ours.tasks import echo, exchange_with
from benchmarks.peers.rates import WORKERS, Rates

if __name__ == "__main__":
    with encamp.Cluster("local", slots=WORKERS) as cluster:
        far = cluster.spawn(echo, notify=False)
        found = cluster.spawn(exchange_with, far.id).result()
        cluster.send(far, None)
    Rates("encamp", **found).show()
