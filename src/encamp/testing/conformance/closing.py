"""The end of a cluster, of a host, and of the controller: nothing hangs and nothing is left."""

# ruff: noqa: S101

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostDeleted
from encamp.errors import ClusterClosed, TaskKilled, TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    gates,
    gone,
    results,
    say,
    until,
)


class Closing(Bound):
    """Close, loss, and what they leave."""

    @pytest.fixture
    def tidy(self, share: Path) -> Iterator[None]:
        """After the test there are no more processes, threads, descriptors and sandboxes."""
        gc.collect()
        before = _what_there_is()
        yield
        gc.collect()
        with suppress(AssertionError):
            until(lambda: _what_there_is() == before, 10)
        assert _what_there_is() == before
        base = Path(os.environ["PARALLEL_LOCAL_STORAGE"])
        assert list(base.glob("encamp-*/sandboxes/*")) == []

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
        pids = [say(cluster, task) for task in running]
        waiting = cluster.spawn_many(work.pid, [()] * 100)
        began = time.monotonic()
        cluster.close(cancel=True)
        assert time.monotonic() - began < self.facts.start
        for task in (*running, *waiting):
            assert task.done()
            assert task.cancelled() or isinstance(task.exception(0), TaskKilled | ClusterClosed)
        until(lambda: all(gone(pid) for pid in pids))

    def test_close_with_messages_in_flight_ends(self, cluster_of: ClusterOf, tidy: None) -> None:
        cluster = cluster_of(2)
        tasks = [cluster.spawn(work.send_numbers, 0, 20_000), cluster.spawn(work.wait_for_ever)]
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
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError), cluster_of(1) as cluster:  # noqa: PT012
            cluster.spawn(work.wait_for_ever)
            raise ZeroDivisionError
        assert time.monotonic() - began < self.facts.start

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

    def test_all_ends_with_a_controller_that_is_killed(
        self, cluster_of: ClusterOf, tidy: None, tmp_path: Path
    ) -> None:
        script = self.script(tmp_path)
        if script is None:
            pytest.skip("this engine lives in the tests' own process")
        with subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
        ) as controller:
            assert controller.stdout is not None
            pids = [int(pid) for pid in controller.stdout.readline().split()]
            family = psutil.Process(controller.pid).children(recursive=True)
            assert len(pids) == 2
            controller.send_signal(signal.SIGKILL)
        until(lambda: all(gone(process.pid) for process in family))
        assert all(gone(pid) for pid in pids)

    def script(self, folder: Path) -> Path | None:
        """A program that holds two tasks which do not end, and prints their process ids."""
        return None

    def test_a_lost_host_fails_its_tasks_and_the_others_go_on(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        if not self.facts.loses_hosts:
            pytest.skip("the loss of a host is the loss of the cluster here")
        with cluster_of(self.SLOTS) as cluster:
            lost = cluster.hosts()[-1]
            doomed = cluster.spawn_many(work.wait_for_ever, [()] * lost.slots, on=lost)
            pids = [say(cluster, task) for task in doomed]
            with gates(cluster, 1, work.pid, on=cluster.hosts()[0]) as others:
                behind = cluster.spawn_many(work.add, [(1,)] * 50)
                only_there = cluster.spawn(work.add, 1, on=lost)
                self.kill_host(cluster, lost.name)
                for task in doomed:
                    with pytest.raises(TaskLost) as caught:
                        task.result(PATIENCE)
                    assert caught.value.host == lost.name
                assert isinstance(only_there.exception(PATIENCE), TaskLost)
            assert results(others)
            assert results(behind) == [2] * 50
            deleted = None
            while not isinstance(deleted, HostDeleted):
                got = cluster.receive(PATIENCE)
                assert got is not None
                deleted = got.message
            assert deleted.host.name == lost.name
            assert lost.name not in [host.name for host in cluster.hosts()]
            assert cluster.slots == self.SLOTS - lost.slots
            until(lambda: all(gone(pid) for pid in pids))


def _what_there_is() -> dict[str, Any]:
    me = psutil.Process()
    children = [child for child in me.children(recursive=True) if not gone(child.pid)]
    return {
        "processes": sorted(child.pid for child in children),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": sorted(_descriptors()),
    }


def _descriptors() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            kind = os.readlink(f"/proc/self/fd/{number}").partition(":")[0]
            found.append(f"{number} {kind}")
    return found


def _cpu_times() -> dict[int, float]:
    me = psutil.Process()
    times = {}
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            used = process.cpu_times()
            times[process.pid] = used.user + used.system
    return times
