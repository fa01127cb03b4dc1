"""encamp's start, tasks and messages on a cluster of another system that runs already.

python -m benchmarks.ours.on_a_system dask|ipyparallel
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import encamp
from benchmarks.ours.tasks import messages_with_a_task
from benchmarks.peers.rates import TASKS, WORKERS, Rates, Results, tasks_per_second
from benchmarks.peers.work import increment


@contextmanager
def dask() -> Iterator[Any]:
    """As many workers as slots, in processes of their own."""
    from distributed import Client, LocalCluster

    made: Any = LocalCluster
    connected: Any = Client
    where = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with made(**where) as cluster, connected(cluster) as client:
        yield client


@contextmanager
def ipyparallel() -> Iterator[Any]:
    """As many engines as slots."""
    from ipyparallel import Cluster

    with Cluster(n=WORKERS, log_level=logging.ERROR) as client:
        client.wait_for_engines(WORKERS)
        yield client


def _seconds_to_import() -> float:
    """What a Python takes that imports what an agent does."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", "import encamp.agent.agent"], check=True)
    return time.perf_counter() - began


def main(system: str) -> None:
    """Measure on one of them."""
    with {"dask": dask, "ipyparallel": ipyparallel}[system]() as client:
        began = time.perf_counter()
        with encamp.Cluster(client) as cluster:
            start = time.perf_counter() - began
            python = min(_seconds_to_import() for _ in range(3))

            def run(numbers: range) -> Results:
                tasks = cluster.spawn_many(increment, [(n,) for n in numbers], notify=False)
                return [task.result() for task in tasks]

            rate = tasks_per_second(run, TASKS)
            found = messages_with_a_task(cluster)
    rates = asdict(Rates("encamp", submit_per_s=rate, **found))
    print(json.dumps({**rates, "start": start / python}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
