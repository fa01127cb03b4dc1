"""A faulty network: forged, repeated, lost and late frames, hosts that join and leave."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster import hosts_join_and_leave
from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostAdded, HostDeleted
from encamp.errors import TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE, gates, next_message, results
from encamp.testing.fake import FakeEngine
from encamp.testing.waiting import until
from encamp.wire.frames import Parts
from encamp.wire.protocol import End, Message, Results, Run, Stop, encode, encode_calls
from encamp.wire.seal import KEY_BYTES, Seal

ALL = ("fake-1", "fake-2", "fake-3")


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path(self.path),)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three hosts with a slot each; one that is silent for a second is lost."""
    monkeypatch.setattr(hosts_join_and_leave, "BEAT", 0.2)
    monkeypatch.setattr(hosts_join_and_leave, "MISSED", 5)
    with Cluster(FakeEngine(hosts=3, slots=1)) as found:
        yield found


def engine_of(cluster: Cluster) -> FakeEngine:
    engine = cluster._engine
    assert isinstance(engine, FakeEngine)
    return engine


def event(cluster: Cluster, kind: type) -> Any:
    """The next event of a kind."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        got = cluster.receive(1)
        if got is not None and isinstance(got.message, kind):
            return got.message
    raise AssertionError(f"no {kind.__name__} came")


def frames(evil: bytes) -> list[Parts]:
    """Frames that would do harm if they were believed."""
    call = pickle.dumps(((), {}))
    return [
        [encode(Results(0, [(1, True, 0.0, evil, 0)])), b""],
        [encode(Message(0, 1)), evil],
        [encode(Message(1, 0, 1, 0)), evil],
        [encode(Run(0, 1, [1])), encode_calls([(1, 1, call, 0, b"")]), evil],
        [encode(Stop(0))],
        [encode(End())],
        [b"noise"],
        [b""],
    ]


@pytest.mark.parametrize("sealed", ["not sealed", "another key", "no seal's length"])
def test_forged_frames_change_nothing_and_are_never_unpickled(
    cluster: Cluster, tmp_path: Path, sealed: str
) -> None:
    evil = pickle.dumps(Evil(str(tmp_path / "was here")))
    engine, other = engine_of(cluster), Seal(bytes(KEY_BYTES), 1)
    with gates(cluster, 3, work.add, 1) as tasks:
        for parts in frames(evil):
            given = {"not sealed": parts, "another key": other.seal(0, parts)}.get(sealed)
            for host in ALL:
                engine.forge(host, given or [*parts, b"x" * 15])
                engine.forge(None, given or [*parts, b"x" * 15], to=host)
    assert results(tasks) == [2, 2, 2]
    assert results(cluster.spawn_many(work.add, [(1,)] * 100)) == [2] * 100
    assert len(cluster.hosts()) == 3
    assert not (tmp_path / "was here").exists()


def test_repeated_frames_count_once(cluster: Cluster, tmp_path: Path) -> None:
    for host in ALL:
        engine_of(cluster).double(host, count=10_000)
        engine_of(cluster).double(None, host, count=10_000)
    names = [f"task-{number}" for number in range(200)]
    results(cluster.spawn_many(work.count_run, [(str(tmp_path), name) for name in names]))
    assert {name: (tmp_path / name).read_bytes() for name in names} == dict.fromkeys(names, b"x")
    task = cluster.spawn(work.echo, 50)
    for number in range(50):
        cluster.send(task, number)
    assert [next_message(cluster, task) for _ in range(50)] == list(range(50))


@pytest.mark.parametrize("to_host", [True, False])
def test_lost_frame_drops_host_without_hang(cluster: Cluster, to_host: bool) -> None:
    doomed = cluster.spawn(work.wait_for_ever, on="fake-2")
    next_message(cluster, doomed)
    way = (None, "fake-2") if to_host else ("fake-2", None)
    engine_of(cluster).lose(*way)
    assert isinstance(doomed.exception(PATIENCE), TaskLost)
    assert event(cluster, HostDeleted).host.name == "fake-2"
    assert results(cluster.spawn_many(work.add, [(1,)] * 50)) == [2] * 50
    assert {host.name for host in cluster.hosts()} == {"fake-1", "fake-3"}


def test_a_short_partition_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    engine = engine_of(cluster)
    names = [f"task-{number}" for number in range(60)]
    tasks = cluster.spawn_many(work.count_run, [(str(tmp_path), name) for name in names])
    engine.cut("fake-3")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.4)
    engine.restore("fake-3")
    results(tasks)
    assert {name: (tmp_path / name).read_bytes() for name in names} == dict.fromkeys(names, b"x")
    assert len(cluster.hosts()) == 3


def test_after_a_long_partition_late_results_are_refused(cluster: Cluster) -> None:
    engine = engine_of(cluster)
    cut_off = cluster.spawn(work.gated, work.add, 1, on="fake-3", notify=False)
    assert next_message(cluster, cut_off) == "ready"
    cluster.send(cut_off, "go")
    engine.cut("fake-3")
    error = cut_off.exception(PATIENCE)
    assert isinstance(error, TaskLost)
    engine.restore("fake-3")
    assert results(cluster.spawn_many(work.add, [(1,)] * 50)) == [2] * 50
    assert cut_off.exception(0) is error
    until(lambda: len(cluster.hosts()) == 2)


def test_a_host_that_joins_takes_what_waits(cluster: Cluster) -> None:
    with gates(cluster, 3, work.pid):
        waiting = cluster.spawn_many(work.whoami, [()] * 5)
        name = engine_of(cluster).add_host(2)
        assert {result[1] for result in results(waiting)} == {name}
    while event(cluster, HostAdded).host.name != name:
        pass
    assert cluster.slots == 5
    assert cluster.hosts()[-1].name == name


def test_waiting_tasks_fail_when_all_hosts_are_lost(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = cluster.spawn_many(work.wait_for_ever, [()] * 3)
    for task in running:
        next_message(cluster, task)
    waiting = cluster.spawn_many(work.add, [(1,)] * 20)
    monkeypatch.setattr(hosts_join_and_leave, "REPLACED", 0.5)
    for host in ALL:
        engine_of(cluster).kill_host(host)
    for task in (*running, *waiting):
        assert isinstance(task.exception(PATIENCE), TaskLost)
