"""The engine ``dask``: which clusters it accepts, workers that join and leave, and its cleanup."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

import encamp
from encamp.cluster.cluster import Cluster
from encamp.engines.dask.tunnels import Relay
from encamp.errors import BadJob, EngineFailed, EngineUnavailable, TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE, next_message, results
from encamp.testing.waiting import children_with, gone, until
from some_dask import SomeDask, some_dask

distributed = pytest.importorskip("distributed")

CORES = 4


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SomeDask]:
    """Two workers of two threads, without TLS."""
    with some_dask(tmp_path_factory.mktemp("dask"), n_workers=2, threads_per_worker=2) as found:
        yield found


@pytest.fixture
def client(dask: SomeDask) -> Iterator[Any]:
    with distributed.Client(dask.address, set_as_default=False) as found:
        found.wait_for_workers(2)
        yield found


def variable(name: str) -> str | None:
    return os.environ.get(name)


def facts() -> tuple[str, int, str | None]:
    return str(Path.cwd()), os.getppid(), os.environ.get("OMP_NUM_THREADS")


def agents_of(client: Any) -> list[int]:
    """The agents that run beside workers."""

    workers = client.run(os.getpid).values()
    return [one.pid for worker in workers for one in children_with("encamp.agent", worker)]


def tasks_of(client: Any) -> list[str]:
    """The tasks that the scheduler knows."""
    return list(client.run_on_scheduler(lambda dask_scheduler: [*map(str, dask_scheduler.tasks)]))


def test_a_client_is_enough_and_stays_the_users(client: Any) -> None:
    with Cluster(client) as cluster:
        assert cluster.slots == 4
        assert len(agents_of(client)) == 2
        assert results(cluster.spawn_many(work.add, [(n,) for n in range(50)])) == [*range(1, 51)]
    assert client.submit(work.add, 1).result(PATIENCE) == 2
    assert agents_of(client) == []
    until(lambda: tasks_of(client) == [])


def held_by(client: Any) -> list[str]:
    """The tasks that run in the workers' threads."""
    found = client.run(lambda dask_worker: [*map(str, dask_worker.active_threads.values())])
    return [key for keys in found.values() for key in keys]


def test_leases_have_ended_when_the_cluster_has(client: Any) -> None:
    """A worker that ends earlier than a task of Dask's prints a warning."""
    with Cluster(client) as cluster:
        task = cluster.spawn(time.sleep, 1)
        until(lambda: any("encamp" in key for key in held_by(client)))
        task.result(PATIENCE)
    assert held_by(client) == []


def test_an_address_is_enough(dask: SomeDask) -> None:
    with Cluster(dask.address.replace("tcp://", "dask://"), slots=1) as cluster:
        assert cluster.slots == 1
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2


def test_an_executor_runs_on_it(client: Any) -> None:
    with encamp.Executor(client) as executor:
        assert list(executor.map(work.add, range(5))) == [1, 2, 3, 4, 5]


def test_tasks_have_a_place_and_an_environment_of_their_own(client: Any) -> None:
    here = Path.cwd()
    with Cluster(client) as cluster:
        where, _, threads = cluster.spawn(facts).result(PATIENCE)
    assert where == str(here)
    assert threads == os.environ.get("OMP_NUM_THREADS", "1")


def test_workers_that_are_busy_start_agents_all_the_same(client: Any, tmp_path: Path) -> None:
    def wait_for(file: Path, number: int) -> int:
        while not file.exists():
            time.sleep(0.01)
        return number

    file = tmp_path / "go on"
    busy = [client.submit(wait_for, file, number) for number in range(4)]
    until(lambda: sum(map(len, client.processing().values())) == 4)
    with Cluster(client) as cluster:
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2
    file.touch()
    assert client.gather(busy) == [0, 1, 2, 3]


def test_a_worker_that_dies_loses_its_tasks_and_another_takes_its_place(client: Any) -> None:
    with Cluster(client) as cluster:
        tasks = cluster.spawn_many(work.wait_for_ever, [()] * 4)
        pids = [next_message(cluster, task) for task in tasks]
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        until(lambda: sum(task.done() for task in tasks) == 2)
        lost = [task for task in tasks if task.done()]
        assert all(isinstance(task.exception(0), TaskLost) for task in lost)
        until(lambda: sum(map(gone, pids)) == 2)
        until(lambda: cluster.slots == 4)  # its nanny has started another
        cluster.kill_all()
        until(lambda: cluster.free_slots == 4)
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20


def test_an_agent_that_dies_alone_is_started_again(client: Any) -> None:
    with Cluster(client) as cluster:
        before = agents_of(client)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: cluster.slots == 2 or set(agents_of(client)) - set(before))
        until(lambda: cluster.slots == 4)
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20


def test_workers_that_join_get_work_and_those_that_leave_do_not(
    client: Any, dask: SomeDask
) -> None:
    with Cluster(client) as cluster:
        dask.order("scale 3")
        until(lambda: cluster.slots == 6, 60)  # a worker of Dask's takes seconds to start
        dask.order("scale 2")
        until(lambda: cluster.slots == 4, 60)
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20


def test_no_public_address_is_listened_on(client: Any) -> None:
    with Cluster(client):
        family = [psutil.Process(), *map(psutil.Process, agents_of(client))]
        found = [c for process in family for c in process.net_connections("inet")]
        open_to = {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}
    assert open_to == {"127.0.0.1"}


def test_an_adaptive_cluster_grows_for_tasks_and_shrinks_after_them(tmp_path: Path) -> None:
    with (
        some_dask(tmp_path, n_workers=0, threads_per_worker=1) as dask,
        distributed.Client(dask.address, set_as_default=False) as client,
    ):
        dask.order("adapt 0 2")
        with Cluster("dask", address=dask.address) as cluster:
            assert cluster.slots >= 1
            tasks = cluster.spawn_many(work.gated, [(work.pid,)] * 2)
            until(lambda: cluster.slots == 2, 60)  # Dask waits for seconds, then starts a worker
            assert [next_message(cluster, task) for task in tasks] == ["ready"] * 2
            for task in tasks:
                cluster.send(task, "go")
            assert len(results(tasks)) == 2
            until(lambda: not client.nthreads())
            assert cluster.spawn(work.add, 1).result(2 * PATIENCE) == 2
        until(lambda: not client.nthreads())


def test_a_scheduler_of_another_python_is_not_given_the_relays_bytecode(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = platform.python_version()
    relay = Relay(client, "run", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(client, "run_on_scheduler", lambda function: "3.99.1")
        with pytest.raises(EngineFailed, match=f"runs Python 3.99.1 instead of {ours}"):
            relay.open()
    assert relay.open()
    relay.close()


def test_own_cluster_is_removed_afterwards() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Cluster("dask", slots=3) as cluster:
        assert cluster.slots == 3
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20
        listening = psutil.Process().net_connections("inet")
        assert {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN} <= {"127.0.0.1"}
    until(lambda: {c.pid for c in psutil.Process().children(recursive=True)} <= before)


def test_a_server_of_another_kind_is_no_scheduler() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        page = threading.Thread(target=_answer_once, args=(server,))
        page.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(EngineUnavailable, match=f"no scheduler at {address}"):
            Cluster("dask", address=address, start_timeout=0.5)
        page.join()


def _answer_once(server: socket.socket) -> None:
    with server.accept()[0] as connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)


def test_invalid_cluster_argument_is_reported() -> None:
    with pytest.raises(EngineUnavailable, match=r"no scheduler at tcp.*after 0\.2 s"):
        Cluster("dask", address="tcp://127.0.0.1:1", start_timeout=0.2)
    with pytest.raises(BadJob, match="address and cluster"):
        Cluster("dask", address="tcp://127.0.0.1:1", cluster=object())
    with pytest.raises(BadJob, match="must be a Client or a cluster"):
        Cluster("dask", client=object())
    with pytest.raises(BadJob, match="name of an engine"):
        Cluster(object())
    with pytest.raises(EngineUnavailable, match=r"'adress'; did you mean 'address'\? its options"):
        Cluster("dask", adress="x")
    with pytest.raises(BadJob, match=r"security: must be a Security .*'tsl'"):
        Cluster("dask", address="tls://127.0.0.1:1", security={"tsl": {"ca": "file"}})


def test_workers_may_be_jobs_of_a_batch_system(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Any] = []

    class SomeCluster(distributed.LocalCluster):  # type: ignore[misc]
        """What dask-jobqueue's are like, but on this host."""

        def __init__(self, **options: Any) -> None:
            received.append(options)
            local = {"processes": False, "n_workers": 0, "threads_per_worker": 1}
            super().__init__(**local, dashboard_address="127.0.0.1:0")

    module = ModuleType("dask_jobqueue")
    module.SomeCluster = SomeCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    with Cluster("dask", jobqueue="some", slots=2, queue="short") as cluster:
        until(lambda: cluster.slots == 2)
        assert results(cluster.spawn_many(work.add, [(1,)] * 4)) == [2] * 4
    assert received == [{"queue": "short"}]
    with pytest.raises(BadJob, match="must be one of some, not 'slurn'"):
        Cluster("dask", jobqueue="slurn", slots=2)
    with pytest.raises(BadJob, match="slots"):
        Cluster("dask", jobqueue="some")


JOB = """
name = "try"
to = "results"
[[task]]
name = "one"
steps = [{ run = "echo here", stdout = "made" }]
outputs = ["made"]
"""


def test_the_command_takes_an_address(dask: SomeDask, here: Path) -> None:
    (here / "job.toml").write_text(JOB)
    encamp_command = Path(sys.executable).with_name("encamp")
    options = ["-e", "dask", "-o", f"address={dask.address}", "-q"]
    done = subprocess.run([encamp_command, "run", *options, "job.toml"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (here / "results/made").read_text() == "here\n"


def test_a_client_of_a_coroutine_will_do(dask: SomeDask) -> None:
    async def main() -> int:
        connected = distributed.Client(dask.address, asynchronous=True)
        async with connected as client, Cluster(client, slots=1) as cluster:
            return int(await asyncio.wrap_future(cluster.spawn(work.add, 1)))

    assert asyncio.run(main()) == 2
