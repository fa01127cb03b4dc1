"""A cluster whose slots have run something and then wait, as its program does.

    python -m benchmarks.ours.waiting ENGINE SECONDS

Prints the process ids of the program, of agents and of slots as JSON, then waits in `receive`.
"""

from __future__ import annotations

import json
import os
import sys
import time

import encamp
from benchmarks.peers.rates import WORKERS


def family(_: int) -> list[int]:
    """Where a task runs, and that process's parent."""
    time.sleep(0.05)  # so that every slot gets one
    return [os.getpid(), os.getppid()]


if __name__ == "__main__":
    engine, seconds = sys.argv[1:]
    with encamp.Cluster(engine, slots=None if engine == "mpi" else WORKERS) as cluster:
        tasks = cluster.spawn_many(family, [(0,)] * 2 * cluster.slots, notify=False)
        pids = {os.getpid(), *(pid for task in tasks for pid in task.result())}
        print(json.dumps(sorted(pids)), flush=True)
        cluster.receive(float(seconds))
