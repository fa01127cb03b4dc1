"""A controller that dies, and hosts that do, for engines where the cluster survives them."""

# ruff: noqa: S101

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostDeleted
from encamp.errors import TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    gates,
    results,
)
from encamp.testing.waiting import gone, until

_SCRIPT = """\
from encamp.cluster.cluster import Cluster
from encamp.testing import work
cluster = {cluster}
tasks = cluster.spawn_many(work.family, [()] * 2, notify=False)
for task in tasks:
    print(cluster.receive(source=task).message, task.host, flush=True)
cluster.receive()
"""


class LosesController(Bound):
    """For engines that any program can use."""

    code: ClassVar[str]
    """Python code that makes a cluster of two slots."""

    def test_all_ends_with_a_controller_that_is_killed(
        self, cluster_of: ClusterOf, tidy: None, tmp_path: Path
    ) -> None:
        script = tmp_path / "controller.py"
        script.write_text(_SCRIPT.format(cluster=self.code))
        with subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
        ) as controller:
            assert controller.stdout is not None
            lines = [controller.stdout.readline().split() for _ in range(2)]
            pids = [self.here(host, int(pid)) for pid, host in lines]
            family = psutil.Process(controller.pid).children(recursive=True)
            controller.send_signal(signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in [*pids, *(process.pid for process in family)]))


class LosesHosts(Bound):
    """For engines whose hosts can die alone."""

    NOTICED: ClassVar[float] = 10.0
    """Maximum number of seconds until the death of a host is known."""

    def kill_host(self, cluster: Cluster, host: str) -> None:
        """Let a host die. To be given by the file that binds the suite."""
        raise NotImplementedError

    def test_a_lost_host_fails_its_tasks_and_the_others_go_on(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS) as cluster:
            lost = cluster.hosts()[-1]
            doomed = cluster.spawn_many(work.wait_for_ever, [()] * lost.slots, on=lost)
            pids = [self.pid_sent_by(cluster, task) for task in doomed]
            with gates(cluster, 1, work.pid, on=cluster.hosts()[0]) as others:
                behind = cluster.spawn_many(work.add, [(1,)] * 50)
                only_there = cluster.spawn(work.add, 1, on=lost)
                self.kill_host(cluster, lost.name)
                for task in doomed:
                    with pytest.raises(TaskLost) as caught:
                        task.result(self.NOTICED)
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
