"""Dask's own: a task of the client's for each call, and an actor that sends messages back."""

from __future__ import annotations

from typing import Any

from distributed import Client, LocalCluster

from benchmarks.peers.rates import TASKS, WORKERS, Rates, Results, messages, tasks_per_second
from benchmarks.peers.work import Echo, increment

_FEW = 0.1
"""Of the usual number of tasks, where each takes so much longer."""


def main() -> None:
    """Measure on a cluster of this host, in processes of its own."""
    made: Any = LocalCluster
    connected: Any = Client
    where = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with made(**where) as cluster, connected(cluster) as client:

        def run(numbers: range) -> Results:
            futures = [client.submit(increment, number, pure=False) for number in numbers]
            found: Results = client.gather(futures)
            return found

        rate = tasks_per_second(run, max(2, int(TASKS * _FEW)))
        actor = client.submit(Echo, actor=True).result()
        found = messages(lambda message: actor.back(message).result())
    Rates("dask", submit_per_s=rate, **found).show()


if __name__ == "__main__":
    main()
