"""MPI jobs on several hosts: paths, lost hosts and unusable hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mpis import MPIS, launcher_of

from conftest import need
from encamp import cores_and_memory
from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostAdded, HostDeleted
from encamp.engines.mpi.launched_engine import LaunchedMPI
from encamp.errors import EngineFailed, TaskLost
from encamp.storage.local_storage import LOCAL
from encamp.storage.shared_folders import MIRRORED
from encamp.testing import work
from encamp.testing.waiting import until
from lab import Host, Lab, missing

NOTICED = 12.0
"""Seconds in which a loss is told."""
FAILED = "the engine 'mpi' failed: the host "
SCRIPT = """\
import json, sys
from encamp.cluster.cluster import Cluster
from encamp.testing import work
with Cluster("mpi", mpi=sys.argv[1], hosts=["lab1:2", "lab2:1", "lab3:1"]) as cluster:
    tasks = cluster.spawn_many(work.gated, [(work.whoami,)] * 4)
    for task in tasks:
        cluster.receive(20, source=task)
        cluster.send(task, "go")
    print(json.dumps(sorted(task.result(20)[1] for task in tasks)))
"""


@pytest.fixture(params=MPIS)
def mpi(request: pytest.FixtureRequest) -> str:
    launcher_of(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[Lab]:
    lacking = missing()
    need(str(lacking), lacking is None)
    with Lab(3) as lab:
        yield lab


@pytest.fixture
def lab(three_hosts: Lab, mpi: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab with all hosts up, on which the test may leave nothing."""
    for name, value in three_hosts.environment.items():
        monkeypatch.setenv(name, value)
    yield three_hosts
    with suppress(AssertionError):
        until(lambda: not left(three_hosts), 10)
    found = left(three_hosts)
    for host in three_hosts.hosts:
        if not host.up:
            host.start()
    assert found == []


def left(lab: Lab) -> list[str]:
    """Processes and files of jobs on the hosts that are up."""
    found = []
    for host in (host for host in lab.hosts if host.up):
        found += host.commands().values()
        kinds = ("ompi.", "hydra_", "prte", "pmix", "mpich_shm", "sm_segment", "encamp-mpi")
        files = [*host.path("/tmp").iterdir(), *host.path("/dev/shm").iterdir()]
        found += [f"{host.name}: {file}" for file in files if file.name.startswith(kinds)]
    return found


def on(lab: Lab, mpi: str, *hosts: str, **options: Any) -> Cluster:
    """A cluster with a slot on each of these hosts."""
    places = [f"{host}:1" for host in hosts]
    return Cluster("mpi", mpi=mpi, hosts=places, rsh_agent=lab.ssh_command, **options)


def engine_of(cluster: Cluster) -> LaunchedMPI:
    assert isinstance(cluster._engine, LaunchedMPI)
    return cluster._engine


def test_hosts_say_their_storages_themselves_and_have_the_rest_from_the_controller(
    lab: Lab, mpi: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("PARALLEL_MORE", "of the controller")
    monkeypatch.setenv("OF_NOBODY_ELSE", "yes")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib:/tmp")
    monkeypatch.setattr("encamp.cluster.hosts_join_and_leave._warned", set())
    hosts = ["lab1", "lab2:1", "lab3"]
    with Cluster("mpi", mpi=mpi, hosts=hosts, rsh_agent=lab.ssh_command) as cluster:
        slots = {"lab1": cores_and_memory.cores(), "lab2": 1, "lab3": cores_and_memory.cores()}
        assert {host.name: host.slots for host in cluster.hosts()} == slots
        for host in lab.hosts:
            found = {
                name: cluster.spawn(work.variable, name, on=host.name).result(20)
                for name in (LOCAL, MIRRORED, "PARALLEL_MORE", "OF_NOBODY_ELSE", "FI_TCP_IFACE")
            }
            assert found == {
                LOCAL: str(host.storage),
                MIRRORED: str(host.share),
                "PARALLEL_MORE": "of the controller",
                "OF_NOBODY_ELSE": None,
                "FI_TCP_IFACE": None,
            }
            libraries = cluster.spawn(work.variable, "LD_LIBRARY_PATH", on=host.name).result(20)
            assert libraries.split(":")[-1] == "/usr/lib"  # behind those of the MPI
    assert any("are not searched in /tmp, where" in str(one.message) for one in recwarn)


def test_outputs_arrive_whole_with_other_share_paths(lab: Lab, mpi: str) -> None:
    text = "".join(f"line {number}\n" for number in range(300_000))
    (lab.share / f"{mpi}.in").write_text(text)
    with on(lab, mpi, "lab1", "lab2", "lab3") as cluster:
        tasks = {
            host.name: cluster.spawn(
                work.upper,
                f"{mpi}.in",
                f"{host.name}.out",
                on=host.name,
                mirror=str(lab.share / f"{mpi}.in"),
                outputs="*.out",
                to=lab.share / f"to {mpi}",
            )
            for host in lab.hosts
        }
        for task in tasks.values():
            task.result(30)
    for name in tasks:
        assert (lab.share / f"to {mpi}" / f"{name}.out").read_text() == text.upper()


def test_a_program_on_one_host_uses_all_of_them(lab: Lab, mpi: str) -> None:
    (lab.share / "script.py").write_text(SCRIPT)
    first = lab.hosts[0]
    assert first.share is not None
    variables = {"UCX_TLS": "tcp,self"}
    done = first.run([sys.executable, first.share / "script.py", mpi], env=variables, timeout=60)
    assert done.stdout == '["lab1", "lab1", "lab2", "lab3"]\n'


def test_a_host_without_power_loses_its_tasks_and_is_left_out_from_then_on(
    lab: Lab, mpi: str
) -> None:
    with on(lab, mpi, "lab1", "lab2", "lab3") as cluster:
        remains = engine_of(cluster)._run.launcher.remains  # type: ignore[union-attr]
        doomed = cluster.spawn(work.wait_for_ever, on="lab3", notify=False)
        other = cluster.spawn(work.gated, work.add, 1, on="lab1", notify=False)
        assert all(cluster.receive(20, source=task) for task in (doomed, other))
        lab.hosts[2].kill()
        error = doomed.exception(NOTICED)
        assert isinstance(error, TaskLost)
        assert "it has not answered for" in str(error)
        cluster.send(other, "go")
        assert other.result(20) == 2
        assert {host.name for host in cluster.hosts()} == {"lab1", "lab2"}
        os.kill(engine_of(cluster).pid or 0, signal.SIGKILL)  # a whole new job is needed
        news = [cluster.receive(20) for _ in range(5)]
        assert [type(got and got.message) for got in news] == [HostDeleted] * 3 + [HostAdded] * 2
        assert sorted(host.name for host in cluster.hosts()) == ["lab1", "lab2"]
        assert cluster.spawn(work.whoami, on="lab2").result(20)[1] == "lab2"
    assert [path for path in remains if Path(path).exists()] == []


@pytest.mark.parametrize("mpi", MPIS[:1], indirect=True)  # the same way with all, and slow
def test_when_the_only_host_is_lost_the_cluster_says_so(lab: Lab, mpi: str) -> None:
    cluster = on(lab, mpi, "lab2")
    try:
        lab.hosts[1].kill()
        task = cluster.spawn(work.add, 1, notify=False)
        assert isinstance(task.exception(60), TaskLost)
        with pytest.raises(EngineFailed, match=r"the host .lab2. (cannot|does not)"):  # noqa: PT012
            for _ in range(100):
                cluster.receive(1)
    finally:
        cluster.close(cancel=True)


def test_agents_end_everywhere_when_the_launcher_is_killed(lab: Lab, mpi: str) -> None:
    cluster = on(lab, mpi, "lab1", "lab2", "lab2", restarts=0)
    try:
        task = cluster.spawn(work.family, on="lab2", notify=False)
        assert cluster.receive(20, source=task)
        os.kill(engine_of(cluster).pid or 0, signal.SIGKILL)
        assert isinstance(task.exception(30), TaskLost)
        until(lambda: left(lab) == [])
    finally:
        cluster.close(cancel=True)


@contextmanager
def without_encamp(host: Host) -> Iterator[None]:
    folder = Path(work.__file__).parents[2]
    host.run(["mount", "-t", "tmpfs", "empty", folder])
    yield
    host.run(["umount", folder])


@contextmanager
def frozen(host: Host) -> Iterator[None]:
    host.freeze()
    yield
    host.thaw()


def refused(lab: Lab, mpi: str, *hosts: str) -> str:
    """What is said of hosts that cannot be used, long before the ranks would have to be there."""
    with pytest.raises(EngineFailed) as caught:
        on(lab, mpi, *hosts, start_timeout=1000)
    return str(caught.value)


def test_unusable_host_gives_one_sentence(lab: Lab, mpi: str) -> None:
    message = refused(lab, mpi, "lab1", "lab9")
    assert message.startswith(f"{FAILED}'lab9' cannot be reached: ssh: Could not resolve")
    with without_encamp(lab.hosts[1]):
        message = refused(lab, mpi, "lab1", "lab2")
    assert message == f"{FAILED}'lab2' has no encamp for {sys.executable}"


@pytest.mark.parametrize("mpi", MPIS[1:], indirect=True)
def test_hanging_host_is_reported_before_launcher_timeout(lab: Lab, mpi: str) -> None:
    with frozen(lab.hosts[1]):
        message = refused(lab, mpi, "lab1", "lab2")
    assert message == f"{FAILED}'lab2' does not answer within 5 s"


@pytest.mark.parametrize("delay", [0.6, 1.1])
def test_an_interrupt_during_the_start_leaves_nothing_on_hosts(
    lab: Lab, mpi: str, delay: float
) -> None:
    """The fixture looks what is left."""
    options = {"mpi": mpi, "hosts": ["lab1", "lab2"], "rsh_agent": lab.ssh_command}
    script = f"from encamp import Cluster\nprint('go', flush=True)\nCluster('mpi', **{options!r})"
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "go\n"
        time.sleep(delay)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    assert program.returncode in (-signal.SIGINT, 0), errors  # it may have been there already
