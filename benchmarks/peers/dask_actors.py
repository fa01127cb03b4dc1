"""Dask's actors: an object in a worker of this host, called by the client."""

from __future__ import annotations

from typing import Any

from distributed import Client, LocalCluster

from benchmarks.peers.calls import CALLS, CallRates, Counter, per_second
from benchmarks.peers.rates import WORKERS


def main() -> None:
    """Measure on a cluster of this host, in processes of its own."""
    made: Any = LocalCluster
    connected: Any = Client
    where = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with made(**where) as cluster, connected(cluster) as client:
        actor = client.submit(Counter, actor=True).result()

        def one_by_one(count: int) -> None:
            for _ in range(count):
                actor.add(1).result()

        CallRates("dask", calls_per_s=per_second(one_by_one, CALLS)).show()


if __name__ == "__main__":
    main()
