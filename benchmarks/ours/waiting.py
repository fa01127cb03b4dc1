"""A cluster whose slots have run something and then wait, as its program does.

    python -m benchmarks.ours.waiting ENGINE

Prints the process ids of the program, of agents and of slots as JSON, then waits in `receive`
until what stands on standard input ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import encamp
from benchmarks.peers.rates import WORKERS


def family(_: int) -> list[int]:
    """Where a task runs, and that process's parent."""
    time.sleep(0.05)  # so that every slot gets one
    return [os.getpid(), os.getppid()]


def _end(cluster: encamp.Cluster) -> None:
    sys.stdin.read()
    cluster.spawn(family, 0)  # its result ends the waiting


if __name__ == "__main__":
    engine = sys.argv[1]
    with encamp.Cluster(engine, **({} if engine == "mpi" else {"slots": WORKERS})) as cluster:
        tasks = cluster.spawn_many(family, [(0,)] * 2 * cluster.slots, notify=False)
        pids = {os.getpid(), *(pid for task in tasks for pid in task.result())}
        threading.Thread(target=_end, args=(cluster,), daemon=True).start()
        print(json.dumps(sorted(pids)), flush=True)
        cluster.receive()
