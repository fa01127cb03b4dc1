"""Hosts that join while the cluster runs, die, are cut off, and return."""

# ruff: noqa: S101

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from encamp.cluster import hosts_join_and_leave
from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.cluster.task import SpawnedTask
from encamp.errors import TaskLost
from encamp.storage.shared_folders import portable
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE, ClusterOf, next_message, results
from encamp.testing.conformance.losses import LosesHosts
from encamp.testing.waiting import until

SHORT = 2.0
"""Seconds without a network that no host is lost for."""
_QUICK = 0.3
"""Seconds between beats where their length is not what is tested."""

Event = TypeVar("Event", HostAdded, HostDeleted)


class Hosts(LosesHosts):
    """For engines whose hosts join and leave; the binding of the suite implements these methods.

    Each test restores all hosts.
    """

    def add_host(self, cluster: Cluster) -> str:
        """Add a host; returns its name."""
        raise NotImplementedError

    def add_again(self, cluster: Cluster, host: str) -> str:
        """Add a host again that died or was cut off; returns its new name."""
        raise NotImplementedError

    def cut(self, cluster: Cluster, host: str) -> None:
        """Cut off a host: frames from and to it are lost silently."""
        raise NotImplementedError

    def restore(self, cluster: Cluster, host: str) -> None:
        """Connect a host again that was cut off."""
        raise NotImplementedError

    @pytest.fixture
    def quick_beats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host that sends nothing is given up soon."""
        monkeypatch.setattr(hosts_join_and_leave, "BEAT", _QUICK)

    def test_a_host_that_is_added_is_told_of_and_gets_tasks(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS) as cluster:
            name = self.add_host(cluster)
            added = event(cluster, HostAdded)
            assert added.host == cluster.hosts()[-1]
            assert (added.host.name, cluster.slots) == (name, self.SLOTS + added.host.slots)
            _talk(cluster, name, cluster.hosts()[0].name)
            _talk(cluster, cluster.hosts()[0].name, name)
            assert cluster.receive(0) is None

    def test_what_waits_goes_to_a_host_that_is_added(
        self, cluster_of: ClusterOf, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS) as cluster, _busy(cluster):
            waiting = cluster.spawn_many(work.whoami, [()] * 5)
            name = self.add_host(cluster)
            assert {result[1] for result in results(waiting)} == {name}

    @pytest.mark.usefixtures("quick_beats")
    def test_a_host_that_died_can_be_added_again(self, cluster_of: ClusterOf, tidy: None) -> None:
        with cluster_of(self.SLOTS) as cluster:
            lost = cluster.hosts()[-1]
            self.kill_host(cluster, lost.name)
            assert event(cluster, HostDeleted).host == lost
            name = self.add_again(cluster, lost.name)
            assert event(cluster, HostAdded).host.name == name
            assert cluster.spawn(work.whoami, on=name).result(PATIENCE)[1] == name
            assert results(cluster.spawn_many(work.add, [(1,)] * 50)) == [2] * 50
            assert cluster.slots == self.SLOTS

    @pytest.mark.usefixtures("quick_beats")
    def test_a_host_that_was_cut_off_for_long_disturbs_nothing_when_it_is_back(
        self, cluster_of: ClusterOf, marks: Path, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS) as cluster:
            lost = cluster.hosts()[-1]
            late = cluster.spawn(work.interval, SHORT, on=lost)
            until(late.running)
            self.cut(cluster, lost.name)
            error = late.exception(PATIENCE)
            assert isinstance(error, TaskLost)
            assert event(cluster, HostDeleted).host == lost
            names = [f"task-{number}" for number in range(50)]
            tasks = cluster.spawn_many(work.count_run, [(portable(marks), name) for name in names])
            results(tasks)
            self.restore(cluster, lost.name)
            name = self.add_again(cluster, lost.name)
            until(lambda: name in [host.name for host in cluster.hosts()])
            assert cluster.spawn(work.whoami, on=name).result(PATIENCE)[1] == name
            assert late.exception(0) is error
            assert _ends(cluster, [late, *tasks]) == [TaskResult, TaskExit] * 51
            assert {name: (marks / name).read_bytes() for name in names} == dict.fromkeys(
                names, b"x"
            )

    def test_a_short_cut_loses_nothing(
        self, cluster_of: ClusterOf, marks: Path, tidy: None
    ) -> None:
        with cluster_of(self.SLOTS) as cluster:
            hosts = cluster.hosts()
            far = hosts[-1]
            echo = cluster.spawn(work.echo, 100, on=far)
            cluster.send(echo, "before")
            assert next_message(cluster, echo) == "before"
            self.cut(cluster, far.name)
            names = [f"task-{number}" for number in range(100)]
            tasks = cluster.spawn_many(work.count_run, [(portable(marks), name) for name in names])
            for number in range(99):
                cluster.send(echo, number)
            assert cluster.receive(SHORT, source=echo) is None
            self.restore(cluster, far.name)
            assert [next_message(cluster, echo) for _ in range(99)] == list(range(99))
            results([echo, *tasks])
            assert {name: (marks / name).read_bytes() for name in names} == dict.fromkeys(
                names, b"x"
            )
            assert cluster.hosts() == hosts
            assert _ends(cluster, [echo, *tasks]) == [TaskResult, TaskExit] * 101


def event(cluster: Cluster, kind: type[Event]) -> Event:
    """The next event of that kind about a host."""
    deadline = time.monotonic() + PATIENCE
    while (got := cluster.receive(max(0.0, deadline - time.monotonic()), source=0)) is not None:
        if isinstance(got.message, kind):
            return got.message
    raise AssertionError(f"no {kind.__name__} came")


def _talk(cluster: Cluster, first: str, second: str) -> None:
    """Have tasks of two hosts talk to each other."""
    answering = cluster.spawn(work.echo, 5, on=first, notify=False)
    asking = cluster.spawn(work.ping, 5, 40_000, on=second, notify=False)
    cluster.send(asking, answering.id)
    assert results([answering, asking]) == [5, 5]


@contextmanager
def _busy(cluster: Cluster) -> Iterator[None]:
    """Keep all slots busy during a block."""
    tasks = cluster.spawn_many(work.gated, [(work.pid,)] * cluster.slots)
    for task in tasks:
        assert next_message(cluster, task) == "ready"
    yield
    for task in tasks:
        cluster.send(task, "go")


def _ends(cluster: Cluster, tasks: list[SpawnedTask]) -> list[type]:
    """The events about the ends of these tasks, task by task."""
    events: dict[int, list[type]] = {task.id: [] for task in tasks}
    while (got := cluster.receive(0)) is not None:
        if isinstance(got.message, TaskResult | TaskExit) and got.source in events:
            events[got.source].append(type(got.message))
    return [kind for task in tasks for kind in events[task.id]]
