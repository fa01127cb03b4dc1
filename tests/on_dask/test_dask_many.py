"""Very many workers: all join, all work is done once, some are lost, few descriptors are used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import many_workers
import pytest

from encamp import Cluster
from encamp.errors import TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import results
from encamp.testing.waiting import until

pytest.importorskip("distributed")

CHAOS = int(os.environ.get("ENCAMP_CHAOS") or 1)
WORKERS, TASKS = (200, 10_000) if CHAOS > 1 else (40, 1000)
LOST = WORKERS // 10


@contextmanager
def _workers() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    command = [sys.executable, many_workers.__file__, str(WORKERS)]
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process
        process.kill()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.chaos
@pytest.mark.timeout(60 + 300 * (CHAOS > 1))
def test_many_workers_join_work_and_are_lost() -> None:
    before = _descriptors()
    with _workers() as workers:
        assert workers.stdin is not None
        assert workers.stdout is not None
        address = workers.stdout.readline().strip()
        with Cluster("dask", address=address, inline="threads", restarts=0) as cluster:
            until(lambda: len(cluster.hosts()) == WORKERS, 60)
            waiting = cluster.spawn_many(work.gated, [(os.getpid,)] * WORKERS, notify=False)
            for _ in waiting:
                assert cluster.receive(60) is not None
            assert _descriptors() - before < 3 * WORKERS
            workers.stdin.write(f"lose {LOST}\n")
            workers.stdin.flush()
            assert workers.stdout.readline() == "done\n"
            until(lambda: sum(task.done() for task in waiting) == LOST, 60)
            lost = [task for task in waiting if task.done()]
            assert all(isinstance(task.exception(0), TaskLost) for task in lost)
            until(lambda: cluster.slots == WORKERS - LOST, 60)
            for task in waiting:
                cluster.send(task, "go")
            tasks = cluster.spawn_many(work.add, [(n,) for n in range(TASKS)], notify=False)
            assert results(tasks) == list(range(1, TASKS + 1))
            assert len(results([task for task in waiting if task not in lost])) == WORKERS - LOST
    until(lambda: _descriptors() <= before)
