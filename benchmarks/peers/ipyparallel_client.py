"""ipyparallel's own: a call of the load-balanced view for each, and of an engine for messages."""

from __future__ import annotations

import logging

import ipyparallel

from benchmarks.peers.rates import TASKS, WORKERS, Rates, Results, messages, tasks_per_second
from benchmarks.peers.work import increment, same

_FEW = 0.1
"""Of the usual number of tasks, where each takes so much longer."""

if __name__ == "__main__":
    with ipyparallel.Cluster(n=WORKERS, log_level=logging.ERROR) as client:
        client.wait_for_engines(WORKERS)
        view, engine = client.load_balanced_view(), client[client.ids[0]]

        def run(numbers: range) -> Results:
            """All results, in order."""
            return [one.get() for one in [view.apply_async(increment, n) for n in numbers]]

        rate = tasks_per_second(run, max(2, int(TASKS * _FEW)))
        found = messages(lambda message: engine.apply_sync(same, message))
    Rates("ipyparallel", submit_per_s=rate, **found).show()
