"""Services on hosts that join and leave, on the network in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import NotEnough, ServerLost, ServiceFailed
from encamp.services.collective_calls import gather
from encamp.services.copy_files import copy_files
from encamp.services.registry import service_records
from encamp.services.registry.choose_server import ServerPool
from encamp.services.registry.saved_states import SavedState
from encamp.services.service import Service
from encamp.testing import served
from encamp.testing.fake import FakeEngine
from encamp.testing.waiting import until


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(slots=[1, 1])


@pytest.fixture
def cluster(engine: FakeEngine) -> Iterator[Cluster]:
    with Cluster(engine) as cluster:
        yield cluster


def _hosts(service: Service) -> set[str]:
    return {server.host for server in service.statistics().servers if server.host}


def test_each_host_has_one_server_even_if_added_later(engine: FakeEngine, cluster: Cluster) -> None:
    service = cluster.publish(served.Counter, per="host")
    service.ready(2, 30)
    assert _hosts(service) == {host.name for host in cluster.hosts()}
    new = engine.add_host(3)
    until(lambda: new in _hosts(service))
    assert service.ready(3, 30) == 3
    group = service.group(timeout=30)
    assert len(group) == 3
    with pytest.raises(TimeoutError):
        service.acquire(0.05)
    del group  # as if it had been released
    service.acquire(30).release()


def test_copy_files_keeps_folders_on_all_hosts(cluster: Cluster, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("data/a.txt", "data/more/b.txt", "data/old/c.txt", "d.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    names = [host.name for host in cluster.hosts()]
    to = {name: tmp_path / name for name in names}
    assert copy_files(cluster, source, ["data/*.txt"], to, exclude=["old/"]) == [
        "data/a.txt", "data/more/b.txt",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / name / "data/more/b.txt").read_text() == "data/more/b.txt"
        assert not (tmp_path / name / "data/old").exists()
    copy_files(cluster, source, ["d.txt"], tmp_path / "only", hosts=names[:1])
    assert (tmp_path / "only/d.txt").exists()


def test_added_slots_get_servers(engine: FakeEngine, cluster: Cluster) -> None:
    service = cluster.publish(served.Counter)
    service.ready(2, 30)
    engine.add_host(2)
    until(lambda: len(service.statistics().servers) == 4)
    assert service.ready(4, 30) == 4


def test_calls_of_a_host_that_is_lost_fail_and_the_others_go_on(
    engine: FakeEngine, cluster: Cluster
) -> None:
    service = cluster.publish(served.Counter)
    service.ready(2, 30)
    proxies = [service.acquire(30), service.acquire(30)]
    places = [proxy.pid().get(30)[0] for proxy in proxies]
    lost = proxies[0].sleep(60)
    engine.kill_host(places[0])
    with pytest.raises(ServerLost) as caught:
        lost.get(30)
    assert caught.value.begun is None
    assert proxies[1].add().get(30) == 1
    for proxy in proxies:
        proxy.release()
    until(lambda: _hosts(service) == {places[1]})
    assert gather(service.broadcast("same", 1)) == [1]
    new = engine.add_host(1)
    until(lambda: _hosts(service) == {places[1], new})


def test_servers_that_die_together_each_continue_with_their_own_state() -> None:
    engine = FakeEngine(slots=[2])
    with Cluster(engine) as cluster:
        service = cluster.publish(served.Saving, count=2, checkpoint_every=1, at_least_once=True)
        service.ready(2, 30)
        proxies = [service.acquire(30), service.acquire(30)]
        for proxy, number in zip(proxies, (10, 200), strict=True):
            assert proxy.add(number).get(30) == number
            assert proxy.same(1).get(30) == 1  # so the state after the first call has come
        host = cluster.hosts()[0].name
        engine.add_host(2)
        until(lambda: len(cluster.hosts()) == 2)
        engine.kill_host(host)
        assert gather([proxy.add() for proxy in proxies], timeout=30) == [11, 201]


def test_state_stays_on_host_unless_host_is_lost(tmp_path: Path) -> None:
    published: Any = None
    service = service_records.ServiceRecord(1, published, ServerPool(count(1), count(1)))
    first, second = (SavedState(tmp_path / name, 1) for name in "ab")
    service.states = [("two", second), ("one", first)]
    assert service.take_state("one", ["one", "two"]) is first
    assert service.take_state("one", ["one", "two"]) is None
    assert service.take_state("three", ["one", "three"]) is second
    assert service.states == []


@pytest.mark.parametrize("elastic", [False, True])
def test_while_there_is_no_host_only_an_elastic_cluster_takes_tasks_with_needs(
    engine: FakeEngine, elastic: bool
) -> None:
    engine.elastic = elastic
    with Cluster(engine) as cluster:
        for host in cluster.hosts():
            engine.kill_host(host.name)
        until(lambda: not cluster.hosts())
        if elastic:
            task = cluster.spawn(abs, -1, memory=1)
            engine.add_host(1)
            assert task.result(30) == 1
        else:
            with pytest.raises(NotEnough, match="1 host is needed, but there are none"):
                cluster.spawn(abs, -1, memory=1)


def test_idle_servers_are_counted(cluster: Cluster, here: Path) -> None:
    service = cluster.publish(served.Counter)
    service.ready(2, 30)
    services = cluster._controller.services
    assert services is not None
    assert services.idle_servers == 2
    assert service.call("same", 1).get(30) == 1
    assert services.idle_servers == 2  # a callback had freed its server
    with service.acquire(30) as proxy:
        assert services.idle_servers == 2  # held, but not called
        waits = proxy.wait_for(str(here / "go"))
        assert services.idle_servers == 1
        (here / "go").touch()
        waits.get(30)
        assert services.idle_servers == 2


def test_a_service_ends_with_the_last_of_its_hosts(engine: FakeEngine, cluster: Cluster) -> None:
    host = cluster.hosts()[0].name
    service = cluster.publish(served.Counter, on=host)
    with service.acquire(30) as proxy:
        result = proxy.sleep(60)
        engine.kill_host(host)
        with pytest.raises(ServerLost):
            result.get(30)
    with pytest.raises(ServiceFailed):
        service.acquire(30)
