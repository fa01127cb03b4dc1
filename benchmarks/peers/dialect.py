"""A program in PyOPUS's dialect that both run: many small jobs, and a message to a task and back.

With a collector each job is made when the results of all before it, but for the running ones, were
seen; without one, nothing has to wait for that.

``python -m benchmarks.peers.dialect PACKAGE`` under ``mpirun -n 2``, with the package that holds
``cooperative`` and ``mpi``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Generator, Iterator
from importlib import import_module
from typing import Any

from benchmarks.peers.rates import SHARE_OF_USUAL
from benchmarks.peers.work import echo, increment

JOBS = max(10, int(2000 * SHARE_OF_USUAL))
MESSAGE = b"x" * 1000
PASSES = 3


def jobs(count: int) -> Iterator[tuple[Any, list[int]]]:
    """Jobs that do next to nothing, each made when it can start."""
    for number in range(count):
        yield increment, [number]


def collect(found: list[Any]) -> Generator[None, tuple[Any, ...], None]:
    """A collector."""
    while True:
        index, _, result = yield
        found.append((index, result))


def seconds_of_job(system: Any, count: int) -> float:
    """The time that one job of ``count`` takes."""
    start = time.perf_counter()
    results = system.dispatch(jobList=jobs(count), remote=True)
    return _seconds_since(start, results, count)


def seconds_of_collected_job(system: Any, count: int) -> float:
    """The same with a collector."""
    found: list[tuple[int, Any]] = []
    start = time.perf_counter()
    system.dispatch(jobList=jobs(count), collector=collect(found), remote=True)
    return _seconds_since(start, [result for _, result in sorted(found)], count)


def _seconds_since(start: float, results: list[Any], count: int) -> float:
    seconds = time.perf_counter() - start
    if results != list(range(1, count + 1)):
        raise ValueError(f"{count} jobs gave wrong results")
    return seconds / count


def seconds_of_exchange(machine: Any, task: Any, count: int) -> float:
    """The time that a message takes to a task and back."""
    start = time.perf_counter()
    for _ in range(count):
        machine.sendMessage(task, MESSAGE)
        if machine.receiveMessage() != (task, MESSAGE):
            raise ValueError("the task has not sent the message back")
    return (time.perf_counter() - start) / count


def measure(system: Any, machine: Any) -> dict[str, float]:
    """Medians of some passes, in microseconds, after one to warm up."""
    job = [seconds_of_job(system, JOBS) for _ in range(PASSES + 1)][1:]
    collected = [seconds_of_collected_job(system, JOBS) for _ in range(PASSES + 1)][1:]
    (task,) = machine.spawnFunction(echo, kwargs={"machine": machine}, count=1, sendBack=False)
    exchange = [seconds_of_exchange(machine, task, JOBS) for _ in range(PASSES + 1)][1:]
    machine.sendMessage(task, None)
    found = {"job_us": job, "collected_us": collected, "exchange_us": exchange}
    return {what: statistics.median(seconds) * 1e6 for what, seconds in found.items()}


if __name__ == "__main__":
    package = sys.argv[1]
    # All ranks but the first stay in this import, and run tasks until the first one finalizes.
    virtual_machine = import_module(f"{package}.mpi").MPI()
    cooperative = import_module(f"{package}.cooperative").cOS
    cooperative.setVM(virtual_machine)
    print(json.dumps(measure(cooperative, virtual_machine)), flush=True)
    cooperative.finalize()
