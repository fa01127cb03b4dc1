"""The end of a cluster, of a host, and of the controller: nothing hangs and nothing remains."""

# ruff: noqa: S101

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import ClusterClosed, TaskKilled
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    results,
)
from encamp.testing.waiting import gone, until


class Closing(Bound):
    """Close, loss, and what they leave."""

    def test_an_idle_cluster_uses_no_cpu(self, cluster: Cluster) -> None:
        results(cluster.spawn_many(work.pid, [()] * 50))
        time.sleep(0.3)
        began, before = time.monotonic(), _cpu_times()
        assert cluster.receive(1.0, source=10**9) is None
        seconds = time.monotonic() - began
        for pid, cpu in _cpu_times().items():
            used = cpu - before.get(pid, cpu)
            assert used <= 0.02 + self.facts.idle_cpu * seconds, psutil.Process(pid).cmdline()

    def test_close_waits_for_what_is_under_way(self, cluster_of: ClusterOf, tidy: None) -> None:
        with cluster_of(2) as cluster:
            tasks = cluster.spawn_many(work.interval, [(0.05,)] * 8)
        assert all(task.done() for task in tasks)
        assert len(results(tasks)) == 8

    def test_close_with_cancel_ends_what_runs_and_what_waits(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        cluster = cluster_of(2)
        running = cluster.spawn_many(work.wait_for_ever, [()] * 2)
        pids = [self.pid_sent_by(cluster, task) for task in running]
        waiting = cluster.spawn_many(work.pid, [()] * 100)
        cluster.close(cancel=True)
        for task in (*running, *waiting):
            assert task.done()
            assert task.cancelled() or isinstance(task.exception(0), TaskKilled | ClusterClosed)
        until(lambda: all(gone(pid) for pid in pids))

    def test_close_with_messages_in_flight_ends(self, cluster_of: ClusterOf, tidy: None) -> None:
        cluster = cluster_of(2)
        tasks = [cluster.spawn(work.send_numbers, 0, 5000), cluster.spawn(work.wait_for_ever)]
        for _ in range(5):
            cluster.send(tasks[1], b"x" * (8 << 20))
        cluster.close(cancel=True)
        assert all(task.done() for task in tasks)

    def test_closing_twice_is_closing_once(self, cluster_of: ClusterOf, tidy: None) -> None:
        cluster = cluster_of(1)
        task = cluster.spawn(work.add, 1)
        cluster.close()
        cluster.close()
        cluster.close(cancel=True)
        assert task.result(0) == 2
        task.kill()
        with pytest.raises(ClusterClosed):
            cluster.spawn(work.add, 1)
        with pytest.raises(ClusterClosed):
            cluster.send(task, "x")

    def test_an_error_in_the_block_ends_the_cluster_at_once(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with pytest.raises(ZeroDivisionError), cluster_of(1) as cluster:  # noqa: PT012
            cluster.spawn(work.wait_for_ever)
            raise ZeroDivisionError

    def test_a_receive_that_waits_ends_with_the_cluster(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        cluster = cluster_of(1)
        ended: list[Any] = []

        def listen() -> None:
            try:
                ended.append(cluster.receive(None))
            except ClusterClosed as closed:
                ended.append(closed)

        thread = threading.Thread(target=listen)
        thread.start()
        cluster.spawn(work.pid, notify=False).result(PATIENCE)
        cluster.close()
        thread.join(PATIENCE)
        assert ended == [None] or isinstance(ended[0], ClusterClosed)


def _cpu_times() -> dict[int, float]:
    me = psutil.Process()
    times = {}
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            used = process.cpu_times()
            times[process.pid] = used.user + used.system
    return times
