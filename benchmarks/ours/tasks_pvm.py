"""encamp's tasks on PVM: in slots that stay (``kept``), or with a ``fresh`` interpreter for each.

python -m benchmarks.ours.tasks_pvm HOW
"""

from __future__ import annotations

import sys

import encamp
from benchmarks.peers.rates import TASKS, WORKERS, Rates, Results, tasks_per_second
from benchmarks.peers.work import increment

FRESH = 0.005
"""Of the usual number of tasks, where each takes so much longer."""

if __name__ == "__main__":
    fresh = sys.argv[1] == "fresh"
    with encamp.Cluster("pvm", slots=WORKERS, machine="own") as cluster:

        def run(numbers: range) -> Results:
            """All results, in order."""
            given = [(number,) for number in numbers]
            tasks = cluster.spawn_many(increment, given, fresh=fresh, notify=False)
            return [task.result() for task in tasks]

        rate = tasks_per_second(run, max(2, int(TASKS * FRESH)) if fresh else TASKS)
    Rates("encamp", submit_per_s=rate).show()
