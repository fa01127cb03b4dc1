"""The ISD grid's public names, on a cluster of this host."""

from __future__ import annotations

import io
import os
import statistics
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replica_exchange import ReplicaExchange

from encamp.cluster.cluster import Cluster
from encamp.compat import isd
from encamp.errors import BadJob, NoMatch, ServerLost, ServiceEnded, WrongLength
from encamp.services.copy_files import found
from encamp.services.service import servers_of
from encamp.testing.waiting import children_with, until
from some_display import x_display

SERVERS = 3


class Model:
    """What is published."""

    def __init__(self) -> None:
        self.scale, self.gate = 1, ""

    def set_scale(self, scale: int) -> None:
        self.scale = scale

    def get_scale(self) -> int:
        return self.scale

    def times(self, number: int, more: int = 0) -> int:
        self.scale += 1
        return number * (self.scale - 1) + more

    def given(self, *args: Any) -> tuple[Any, ...]:
        return args

    def fail(self) -> None:
        raise ValueError("not this time")

    def pid(self) -> int:
        return os.getpid()

    def wait_for(self, path: str) -> int:
        while not Path(path).exists():
            threading.Event().wait(0.005)
        return os.getpid()

    def place(self) -> tuple[str, str | None, int]:
        return str(Path.cwd()), os.environ.get("FROM_INIT"), os.nice(0)

    def release(self) -> str:
        return "the model's own"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("local", slots=SERVERS) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def no_slots_left() -> None:
    """The cluster is the module's."""


@pytest.fixture(scope="module", autouse=True)
def local_storage_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.mktemp("local")
        patch.setenv("PARALLEL_LOCAL_STORAGE", str(base))
        yield base


@pytest.fixture
def grid(cluster: Cluster) -> Iterator[isd.Grid]:
    isd.use_cluster(cluster)
    grid = isd.Grid(
        isd.create_host_list(["localhost"] * SERVERS), "", None, 0.0, False, False, None
    )
    yield grid
    grid.terminate()
    isd.use_cluster(None)


def test_a_service_is_published_acquired_called_and_released(grid: isd.Grid, here: Path) -> None:
    service_id = grid.publish(Model())
    assert service_id == "Model.1"
    proxy = grid.acquire_service(service_id)
    results = [proxy.set_scale(3), proxy.times(5), proxy.times(5, more=1)]
    assert [result.get() for result in results] == [None, 15, 21]
    assert proxy.release().get() == "the model's own"
    with pytest.raises(ValueError, match="not this time"):
        proxy.fail().get()
    late = proxy.wait_for(str(here / "go"))
    with pytest.raises(TimeoutError):
        late.get(0.02)
    server = proxy._server
    assert server.acquired
    assert server in grid.servers[service_id]
    grid.release_service(proxy)
    assert not late.done()
    (here / "go").touch()
    assert late.get(20)
    grid.acquire_service(service_id)
    assert server.jobs == 6
    assert server.time > 0
    grid.add_time(server, 7.0)
    assert server.time == 7.0
    grid.release_all()


def test_waiting_client_gets_released_server(grid: isd.Grid) -> None:
    service_id = grid.publish(Model())
    grid._services[service_id].ready(SERVERS)
    proxies = [grid.acquire_service(service_id) for _ in range(SERVERS)]
    queue = grid.queues[service_id]
    assert queue.empty()
    with pytest.raises(TimeoutError):
        queue.get(block=False)
    got: list[isd.Proxy] = []
    waiting = threading.Thread(target=lambda: got.append(grid.acquire_service(service_id)))
    waiting.start()
    proxies[1].pid()
    grid.release_service(proxies[1])
    waiting.join(20)
    assert got[0]._server is proxies[1]._server
    grid.release_all()
    server = queue.get(timeout=20)
    assert server.proxy is not None
    queue.put(server)
    assert server.proxy is None


def test_collectives_take_arguments_as_the_grid_does(grid: isd.Grid) -> None:
    service_id = grid.publish(Model())
    assert len(set(grid.gather(grid.broadcast(service_id, "pid")))) == SERVERS
    given = grid.gather(grid.scatter(service_id, "given", [1, (2, 3), {"four": 5}]))
    assert given == [(1,), (2, 3), ({"four": 5},)]
    assert grid.gather(grid.scatter(service_id, "given", ["text", [6], range(2)])) == [
        ("text",), (6,), (0, 1),
    ]  # fmt: skip
    more = grid.scatter(service_id, "times", [1, 1, 1], [{"more": n} for n in range(SERVERS)])
    assert grid.gather(more) == [1, 2, 3]
    with pytest.raises(WrongLength):
        grid.scatter(service_id, "given", [1])
    held = grid.acquire_service(service_id)
    assert len(grid.gather(grid.broadcast(service_id, "pid"))) == SERVERS
    assert held.pid().get() > 0
    grid.release_all()


def test_a_service_with_parameters_sets_them_before_and_gets_them_after(grid: isd.Grid) -> None:
    service = isd.AbstractService(grid, grid.publish(Model()))
    service.set_parameters({"scale": 10})
    service.read_back(["scale"])
    assert service.times(2).get() == 20
    assert service.get_parameters() == {"scale": 11}


def test_a_server_that_dies_is_replaced_in_the_list(grid: isd.Grid) -> None:
    service_id = grid.publish(Model())
    proxy = grid.acquire_service(service_id)
    lost = proxy.wait_for("never")
    os.kill(_pid_of(grid, service_id, proxy), 9)
    with pytest.raises(ServerLost):
        lost.get(20)
    grid.release_service(proxy)
    grid.service(service_id).ready(SERVERS, 30)
    for _ in range(SERVERS):
        grid.acquire_service(service_id)
    assert len(grid.servers[service_id]) == SERVERS
    assert proxy._server not in grid.servers[service_id]


def _pid_of(grid: isd.Grid, service_id: str, proxy: isd.Proxy) -> int:
    """The process of a server that is busy: the one of its siblings that does not answer."""
    others = [one for one in servers_of(grid.service(service_id)) if one != proxy._server.number]
    answered = {grid.service(service_id).call_one(one, "pid").get(20) for one in others}
    slots = {one.pid for one in children_with("encamp.slot")}
    (pid,) = slots - answered
    return pid


def test_services_end(grid: isd.Grid) -> None:
    service_id = grid.publish(Model())
    grid.terminate(service_id)
    with pytest.raises(ServiceEnded):
        grid.acquire_service(service_id)
    assert service_id not in grid.servers
    assert not grid.ishalted()
    grid.terminate()
    assert grid.ishalted()


def test_files_are_copied_with_their_folders(grid: isd.Grid, tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name in ("Isd/foo.txt", "Isd/a/foo.txt", "Isd/a/b/c/foo.txt", "Isd/cns/foo.txt",
                 "other/foo.txt", "data/x.txt", "model.py"):  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    expected = ["Isd/a/b/c/foo.txt", "Isd/a/foo.txt", "Isd/foo.txt"]
    assert found(source, ["Isd/foo.txt"], isd.EXCLUDE) == expected
    assert found(source, ["*.py", "data/*.txt"]) == ["data/x.txt", "model.py"]
    with pytest.raises(NoMatch, match="nowhere"):
        found(source, ["nowhere/*.txt"])
    target = tmp_path / "target"
    grid.hosts = [isd.Host("localhost", str(target))]
    grid.initialise(str(source), ["Isd/foo.txt", "*.py"])
    assert grid.copied_files == [*expected, "model.py"]
    assert grid.temp_paths == {"localhost": str(target)}
    assert (target / "Isd/a/b/c/foo.txt").read_text() == "Isd/a/b/c/foo.txt"
    grid.copy_files(str(source), ["data/*.txt"])
    assert (target / "data/x.txt").read_text() == "data/x.txt"
    assert Path(grid.create_subroot(str(target))).parent == target


def test_hosts_say_how_servers_run(grid: isd.Grid, tmp_path: Path) -> None:
    grid.hosts = isd.create_host_list(
        ["localhost"], temp_path=str(tmp_path / "work"), niceness=3, init_cmd="export FROM_INIT=yes"
    )
    before = os.nice(0)
    place = grid.acquire_service(grid.publish(Model())).place().get()
    assert place == (str(tmp_path / "work"), "yes", before + 3)
    with pytest.raises(BadJob, match="wrapper"):
        isd.Host("here", init_cmd="valgrind!")


def test_servers_run_with_the_python_of_their_host(tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexport FROM_INIT=wrapped; exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    own = isd.Grid([isd.Host("localhost", python=str(wrapper))])
    try:
        assert own.acquire_service(own.publish(Model())).place().get()[1] == "wrapped"
    finally:
        own.terminate()
    both = isd.Grid([isd.Host("localhost"), isd.Host("127.0.0.1", python=str(wrapper))])
    with pytest.raises(BadJob, match="the same interpreter"):
        both.publish(Model())


def test_the_python_of_a_host_is_refused_on_an_open_cluster(grid: isd.Grid) -> None:
    grid.hosts = [isd.Host("localhost", python="/opt/python/bin/python")]
    with pytest.raises(BadJob, match=r"Cluster\(interpreter="):
        grid.publish(Model())


def test_a_display_has_the_consoles_of_all_servers(
    grid: isd.Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xterm = tmp_path / "xterm"
    xterm.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/opened\n')
    xterm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    opened = tmp_path / "opened"
    with x_display() as (name, _):
        grid.display, grid.window_size = name, "33x11"
        grid.service(grid.publish(Model())).ready(SERVERS)
        until(lambda: opened.exists() and opened.read_text().count(f"-display {name}") == SERVERS)
    assert opened.read_text().count("-geometry 33x11") == SERVERS


def test_the_thread_of_a_grid_lives_until_the_grid_is_terminated() -> None:
    grid = isd.Grid(["localhost"])
    grid.start()
    assert grid.is_alive()
    assert not grid.ishalted()
    grid.terminate()
    grid.join(30)
    assert not grid.is_alive()


def test_a_proxy_that_releases_itself_frees_its_server(grid: isd.Grid) -> None:
    service_id = grid.publish(Model())
    grid.service(service_id).ready(SERVERS)
    proxy = grid.acquire_service(service_id)
    assert proxy._selfrelease is False
    assert proxy.times(3).get() == 3
    assert grid.queues[service_id].qsize() == SERVERS - 1
    proxy._selfrelease = True
    assert grid.queues[service_id].qsize() == SERVERS
    assert proxy._selfrelease is False


def test_unusable_grid_arguments_are_named(grid: isd.Grid) -> None:
    service_id = grid.publish(Model())
    with pytest.raises(BadJob, match=f"service_id: .*'gone'.*; its services are {service_id}"):
        grid.acquire_service("gone")
    wrong: Any
    for wrong in (None, 5, "ab", [None, 1, 2]):
        with pytest.raises(TypeError, match=r"hosts: must be a list|names: must be strings"):
            isd.Grid(wrong)
        with pytest.raises(TypeError, match="kwlist: must be"):
            grid.scatter(service_id, "times", [1, 2, 3], wrong or 0)
    for wrong in (None, 5, "abc", {1: 2}):
        with pytest.raises(TypeError, match="arglist: must be a list of arguments"):
            grid.scatter(service_id, "times", wrong)
    with pytest.raises(TypeError, match="names: must be a list of strings, not 5"):
        isd.create_host_list(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="proxy: must be what acquire_service returned, not None"):
        grid.release_service(None)  # type: ignore[arg-type]


def test_the_grid_says_what_it_does_if_it_is_to(grid: isd.Grid) -> None:
    grid.dp("not told")
    grid.set_debug(True)
    grid.debug_out = io.StringIO()
    grid.publish(Model())
    assert grid.debug_out.getvalue() == "published Model.1 with 3 servers\n"


def test_a_replica_exchange_written_for_the_grid_runs() -> None:
    grid = isd.PyroGrid(isd.create_host_list("localhost localhost"), "", None, 0, False, False)
    try:
        exchange = ReplicaExchange(grid, [1.0, 3.0])
        seen = [x for _ in range(60) for x in exchange.round(50)]
    finally:
        grid.terminate()
    assert exchange.exchanged > 10
    assert abs(statistics.fmean(seen)) < 0.3
    assert 0.7 < statistics.variance(seen) < 1.4
