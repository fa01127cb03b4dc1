"""The engine ``ipyparallel``: which clusters it accepts; engines that join, leave and are busy."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, EngineFailed, EngineUnavailable, TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE, next_message, results
from encamp.testing.waiting import children_with, gone, until
from some_ipyparallel import SomeEngines, some_engines

ipyparallel = pytest.importorskip("ipyparallel")
interactive = ipyparallel.interactive  # has functions travel by value


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SomeEngines]:
    """A controller and two engines; tests may add some and end them."""
    with some_engines(tmp_path_factory.mktemp("ipyparallel"), 2) as found:
        yield found


@pytest.fixture
def client(engines: SomeEngines) -> Iterator[Any]:
    with ipyparallel.Client(engines.file) as found:
        found.wait_for_engines(2)
        yield found


def agents_of(client: Any) -> list[int]:
    """The agents that run beside engines."""
    engines = client[:].apply_sync(os.getpid)
    return [one.pid for engine in engines for one in children_with("encamp.agent", engine)]


def idle(client: Any) -> bool:
    """Whether no engine has anything to do, as far as the controller knows."""
    statuses = [client.queue_status(engine) for engine in client.ids]
    return not any(status["queue"] or status["tasks"] for status in statuses)


def wait_for(file: str, number: int) -> int:
    """Runs on engines, which have no such module: it imports what it needs."""
    import time
    from pathlib import Path

    while not Path(file).exists():
        time.sleep(0.01)
    return number


def test_a_client_is_enough_and_its_engines_stay_as_they_were(client: Any) -> None:
    client[:].push({"mine": 5}, block=True)
    until(lambda: idle(client))  # the controller hears of it later than the client
    with Cluster(client) as cluster:
        assert cluster.slots == len(client.ids)
        assert len(agents_of(client)) == len(client.ids)
        assert results(cluster.spawn_many(work.add, [(n,) for n in range(50)])) == [*range(1, 51)]
    assert agents_of(client) == []
    assert client[:].pull("mine", block=True) == [5] * len(client.ids)
    assert not client.outstanding
    namespace = client[client.ids[0]].apply_sync(interactive(lambda: sorted(globals())))
    assert not [name for name in namespace if "encamp" in name]


def test_a_connection_file_a_view_and_slots(client: Any, engines: SomeEngines) -> None:
    with Cluster("ipyparallel", connection_file=engines.file, slots=1) as cluster:
        assert cluster.slots == 1
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2
    with Cluster(client[:], per_engine=2) as cluster:
        assert cluster.slots == 2 * len(client.ids)
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20


def test_busy_engine_gets_agent_later_without_blocking(client: Any, tmp_path: Path) -> None:
    file = tmp_path / "go on"
    busy = client[client.ids[0]].apply_async(interactive(wait_for), str(file), 7)
    until(lambda: client.queue_status(client.ids[0])["queue"] == 1)
    with Cluster(client) as cluster:
        assert cluster.slots == len(client.ids) - 1
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2
        file.touch()
        until(lambda: cluster.slots == len(client.ids))
    assert busy.get(PATIENCE) == 7


def test_unstarted_agents_of_busy_engine_are_cancelled(client: Any, tmp_path: Path) -> None:
    file = tmp_path / "go on"
    busy = client[client.ids[0]].apply_async(interactive(wait_for), str(file), 7)
    until(lambda: client.queue_status(client.ids[0])["queue"] == 1)
    with Cluster(client) as cluster:
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2
    file.touch()
    assert busy.get(PATIENCE) == 7
    assert client[client.ids[0]].apply_sync(os.getpid)
    assert agents_of(client) == []


def test_engines_that_join_get_work_and_one_that_dies_loses_its_tasks(
    client: Any, engines: SomeEngines
) -> None:
    with Cluster(client) as cluster:
        count = cluster.slots
        engines.order("start_engines 1")
        until(lambda: cluster.slots == count + 1)
        tasks = cluster.spawn_many(work.wait_for_ever, [()] * cluster.slots)
        pids = [next_message(cluster, task) for task in tasks]
        victim = client[max(client.ids)].apply_sync(os.getpid)
        os.kill(victim, signal.SIGKILL)
        until(lambda: any(task.done() for task in tasks))
        (lost,) = [task for task in tasks if task.done()]
        assert isinstance(lost.exception(0), TaskLost)
        until(lambda: sum(map(gone, pids)) == 1)
        assert cluster.slots == count
        cluster.kill_all()
        until(lambda: cluster.free_slots == count)
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20
    until(lambda: len(client.ids) == count)


def test_own_cluster_is_removed_afterwards(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Cluster("ipyparallel", slots=2) as cluster:
        assert cluster.slots == 2
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20
    until(lambda: {c.pid for c in psutil.Process().children(recursive=True)} <= before)
    assert not list(tmp_path.glob("encamp-*"))


def test_a_cluster_that_did_not_start_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("ENCAMP_SSH", "false")
    for _ in range(2):  # its controller is ended while it starts children of its own
        with pytest.raises(EngineUnavailable):
            Cluster("ipyparallel", hosts=["node1"])
    until(lambda: not [p for p in psutil.process_iter() if str(tmp_path) in str(_line(p))])
    assert not list(tmp_path.glob("encamp-*"))


def _line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_invalid_cluster_argument_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no cluster was reached through its connection"):
        Cluster("ipyparallel", connection_file=str(tmp_path / "none.json"))
    with pytest.raises(BadJob, match="client and profile"):
        Cluster("ipyparallel", client=object(), profile="x")
    with pytest.raises(BadJob, match="must be a Client"):
        Cluster("ipyparallel", client=object())
    (tmp_path / "half.json").write_text('{"url": "tcp://127.0.0.1:1"}')
    with pytest.raises(EngineUnavailable, match=r"half\.json': it lacks 'task_scheme'"):
        Cluster("ipyparallel", connection_file=str(tmp_path / "half.json"))
    with pytest.raises(EngineUnavailable, match=r"'profil'; did you mean 'profile'\? its options"):
        Cluster("ipyparallel", profil="x")


def test_engines_of_other_python_are_reported_and_unchanged(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of them it is asked as text; functions would be bytecode of this version."""
    theirs = platform.python_version()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
    message = f"it runs Python {theirs}, but this program runs Python 3.99.1: use one version"
    with pytest.raises(EngineFailed, match=message):
        Cluster(client)
    monkeypatch.undo()
    with Cluster(client) as cluster:
        assert results([cluster.spawn(abs, -4)]) == [4]


def test_an_engine_of_another_python_is_not_waited_for(client: Any) -> None:
    other = client[client.ids[0]]
    other.execute("import platform; theirs = platform.python_version", block=True)
    other.execute("platform.python_version = lambda: '3.99.1'", block=True)
    try:
        with Cluster(client, start_timeout=PATIENCE) as cluster:
            assert cluster._engine.agents == cluster.slots == len(client.ids) - 1
            assert results([cluster.spawn(abs, -4)]) == [4]
    finally:
        other.execute("platform.python_version = theirs; del theirs, platform", block=True)


def test_a_client_whose_controller_is_dead_is_not_waited_for(tmp_path: Path) -> None:
    cluster = ipyparallel.Cluster(n=1, profile_dir=str(tmp_path / "profile"), log_level=40)
    with pytest.raises(EngineUnavailable, match="its cluster does not run"):
        Cluster(cluster)
    with cluster.start_and_connect_sync() as client:
        cluster.stop_cluster_sync()
        with pytest.raises(EngineUnavailable, match="its cluster does not run"):
            Cluster(cluster)
        with pytest.raises(EngineUnavailable, match=r"its controller has not answered for 0\.5 s"):
            Cluster(client, start_timeout=0.5)
    with pytest.raises(EngineUnavailable, match=r"its client cannot be used: .*closed"):
        Cluster(client)
