"""What a task costs the controller, whatever the number of tasks and hosts.

The hosts are simulated: they say at once that a call has returned, and the time that takes is
counted apart.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Figure, amount
from encamp.cluster.cluster import Cluster
from encamp.testing.fake import SimulatedEngine

HOSTS = 10_000
SLOTS = 8
COUNTS = (10_000, 100_000, 1_000_000)
PASSES = (5, 3, 1)
"""How often each is measured: a short time is less sure than a long one."""
WAITING = 100_000
"""Tasks whose memory is traced, which takes its time."""


def trivial(number: int) -> int:
    """A task that no simulated host runs."""
    return number


def figures(_: Path) -> Iterator[Figure]:
    """The figures of a cluster's controller."""
    engine = SimulatedEngine(HOSTS, SLOTS)
    with Cluster(engine) as cluster:
        _cost(cluster, engine, COUNTS[0])
        costs = [
            statistics.median(_cost(cluster, engine, count) for _ in range(passes))
            for count, passes in zip(COUNTS, PASSES, strict=True)
        ]
        yield _waiting(cluster, engine)
    least, most = costs[0], costs[-1]
    how = ", ".join(
        f"{count:,}: {cost * 1e6:.1f} µs" for count, cost in zip(COUNTS, costs, strict=True)
    )
    what = f"controller's time for a task, {COUNTS[-1]:,} to {COUNTS[0]:,} tasks"
    how = f"{how}; {HOSTS:,} hosts x {SLOTS}"
    yield amount(what, most / least, "x", at_most=1.2, how=how)


def _cost(cluster: Cluster, engine: SimulatedEngine, count: int) -> float:
    """Seconds of the controller for one of ``count`` tasks: spawned, sent, ended."""
    gc.collect()
    engine.hold()
    arguments = [(number,) for number in range(count)]
    start, apart = time.process_time(), engine.own_seconds
    tasks = cluster.spawn_many(trivial, arguments, notify=False)
    engine.release()
    for task in tasks:
        task.result()
    return (time.process_time() - start - (engine.own_seconds - apart)) / count


def _waiting(cluster: Cluster, engine: SimulatedEngine) -> Figure:
    """Memory of a task that waits, with its argument."""
    engine.hold()
    busy = cluster.spawn_many(trivial, [(1,)] * (4 * cluster.slots), notify=False)
    gc.collect()
    tracemalloc.start()
    arguments = ((number,) for number in range(WAITING))
    tasks = cluster.spawn_many(trivial, arguments, notify=False)
    bytes_each = tracemalloc.get_traced_memory()[0] / WAITING
    tracemalloc.stop()
    waiting = sum(not task.running() and not task.done() for task in tasks)
    engine.release()
    for task in (*busy, *tasks):
        task.result()
    what = f"memory of a waiting task, of {WAITING:,} ({waiting:,} of them in the queue)"
    return amount(what, bytes_each, "bytes", at_most=1024)
