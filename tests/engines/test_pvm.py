"""The PVM engine: its binding of libpvm, its machines, and cleanup after deaths."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from conftest import need
from encamp.cluster.cluster import Cluster
from encamp.cluster.events import HostDeleted
from encamp.errors import ClusterError, EngineFailed, EngineUnavailable, TaskLost
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE, next_message, results
from encamp.testing.waiting import gone, until

if shutil.which("pvmd"):
    from encamp.engines.pvm import libpvm
    from encamp.engines.pvm import machine as pvm_machine
    from encamp.engines.pvm.engine import PVMEngine, open_endpoint
    from encamp.engines.pvm.machine import OwnMachine
    from encamp.engines.pvm.membership import ENDED, Membership

NOTICED = 10.0


@pytest.fixture(autouse=True)
def no_machine_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Root may use PVM here; no daemon and no file of a machine may outlive a test."""
    need("pvm", shutil.which("pvmd") is not None)
    monkeypatch.setenv("PVM_ALLOW_ROOT", "1")
    files, daemons = remains()
    yield
    until(lambda: remains()[1] <= daemons)
    assert remains()[0] <= files


def remains() -> tuple[set[Path], set[int]]:
    mine = psutil.Process().children(recursive=True)
    return files_of(os.getpid()), {child.pid for child in mine if name_of(child) in ("pvmd", "pvm")}


def files_of(pid: int) -> set[Path]:
    """Files of virtual machines that a process has started."""
    names = (f"encamp-pvm-{pid}-*", f"pvm*encamp{pid}*")
    return {path for name in names for path in Path(tempfile.gettempdir()).glob(name)}


def name_of(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.Error:
        return ""


def engine_of(cluster: Cluster) -> PVMEngine:
    assert isinstance(cluster._engine, PVMEngine)
    return cluster._engine


def daemon_of(cluster: Cluster) -> int:
    machine = engine_of(cluster)._member.machine
    assert isinstance(machine, OwnMachine)
    return machine.process


def agents_of(cluster: Cluster) -> list[int]:
    facts = [agent.facts for agent in cluster._controller.agents.by_number.values()]
    return [fact.pid for fact in facts if fact is not None]


def test_libpvm_carries_bytes_and_says_what_is_wrong() -> None:
    with Cluster("pvm", slots=1, machine="own") as cluster, engine_of(cluster)._member.lock:
        tid = libpvm.mytid()
        libpvm.send(tid, 77, b"abc\0def")
        assert libpvm.bufinfo(libpvm.recv(tid, 77)) == (7, 77, tid)
        assert (libpvm.unpack(3), libpvm.unpack(4)) == (b"abc", b"\0def")
        with pytest.raises(libpvm.PVMError, match="no more data"):
            libpvm.unpack(1)
        assert libpvm.nrecv(tid, 78) == 0
        assert [host.name for host in libpvm.config()] == ["localhost"]
        with pytest.raises(libpvm.PVMError, match="bad parameter") as caught:
            libpvm.kill(-5)
        assert caught.value.code == -2


def test_messages_of_any_size_round_trip() -> None:
    some = random.Random(1).randbytes(30_000_000)
    sizes = [0, 1, 8191, 8193, 32_767, 32_769, 49_151, 49_153, 114_688, 1_000_001, 30_000_000]
    with Cluster("pvm", slots=1, machine="own") as cluster:
        task = cluster.spawn(work.echo, len(sizes) + 1)
        for size in sizes:
            cluster.send(task, bytearray(some[:size]))
            assert next_message(cluster, task) == some[:size]
        many = [some[start : start + 1 + start % 9_000] for start in range(0, 2_000_000, 500)]
        cluster.send(task, many)
        assert next_message(cluster, task) == many


def test_frozen_agent_does_not_delay_others() -> None:
    with Cluster("pvm", slots=2, per_agent=1, machine="own") as cluster:
        one, other = cluster.spawn_many(work.echo, [(1,)] * 2)
        until(lambda: None not in (one.slot, other.slot))
        frozen = cluster._controller.tasks[one.id].slot.agent  # type: ignore[union-attr]
        facts = cluster._controller.agents.by_number[frozen].facts
        assert facts is not None
        os.kill(facts.pid, signal.SIGSTOP)
        try:
            for _ in range(20):
                cluster.send(one, os.urandom(1 << 20))
            cluster.send(other, "hello")
            assert next_message(cluster, other) == "hello"
            assert not one.done()
            cluster.send(one, bytearray(1 << 20))  # may be changed later: waits for the loss
            with pytest.raises(TaskLost):
                one.result(PATIENCE)
        finally:
            os.kill(facts.pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_is_killed_is_noticed_and_replaced(how: int) -> None:
    with Cluster("pvm", slots=2, machine="own") as cluster:
        task = cluster.spawn(work.wait_for_ever)
        pid = next_message(cluster, task)
        (agent,) = agents_of(cluster)
        os.kill(agent, how)
        with pytest.raises(TaskLost, match="agent on localhost"):
            task.result(NOTICED)
        until(lambda: gone(pid))
        assert results(cluster.spawn_many(work.add, [(1,)] * 20)) == [2] * 20
        assert agents_of(cluster) != [agent]
        deleted = [cluster.receive(1) for _ in range(3)]
        assert any(got is not None and isinstance(got.message, HostDeleted) for got in deleted)


def test_agents_that_die_again_and_again_are_given_up() -> None:
    with Cluster("pvm", slots=1, machine="own", restarts=1) as cluster:
        for _ in range(2):
            until(lambda: agents_of(cluster))
            (agent,) = agents_of(cluster)
            os.kill(agent, signal.SIGKILL)
            until(lambda agent=agent: agent not in agents_of(cluster))
        assert agents_of(cluster) == []


def test_a_daemon_that_is_killed_is_noticed_and_nothing_is_left() -> None:
    cluster = Cluster("pvm", slots=2, machine="own")
    try:
        task = cluster.spawn(work.wait_for_ever)
        pid = next_message(cluster, task)
        agents = agents_of(cluster)
        os.kill(daemon_of(cluster), signal.SIGKILL)
        with pytest.raises(TaskLost, match="daemon"):
            task.result(NOTICED)
        with pytest.raises(ClusterError):
            cluster.spawn(work.add, 1).result(PATIENCE)
        until(lambda: all(gone(one) for one in (pid, *agents)))
    finally:
        cluster.close(cancel=True)
    with Cluster("pvm", slots=2, machine="own") as again:
        assert again.spawn(work.add, 1).result(PATIENCE) == 2


def test_clusters_of_one_process_share_its_machine() -> None:
    with Cluster("pvm", slots=1, machine="own") as one:
        with Cluster("pvm", slots=2) as other:
            assert daemon_of(one) == daemon_of(other)
            tasks = [c.spawn_many(work.add, [(n,) for n in range(200)]) for c in (one, other)]
            assert [results(some) for some in tasks] == [list(range(1, 201))] * 2
            with pytest.raises(EngineUnavailable, match="its own"):
                Cluster("pvm", machine="running")
        assert one.spawn(work.add, 1).result(PATIENCE) == 2


_KILLED = """\
from encamp import Cluster
cluster = Cluster("pvm", slots=1, machine="own")
print("there", flush=True)
cluster.receive()
"""


def test_a_controller_that_is_killed_leaves_no_file_and_no_daemon() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True
    ) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "there\n"
        assert files_of(controller.pid)
        family = psutil.Process(controller.pid).children(recursive=True)
        controller.kill()
    until(lambda: all(gone(process.pid) for process in family))
    assert files_of(controller.pid) == set()


_STEADY = """\
import psutil
from encamp import Cluster
with Cluster("pvm", slots=1, machine="own") as cluster:
    def ask(times):
        for _ in range(times):
            assert len(cluster._engine.machine_hosts()) == 1
        return psutil.Process().memory_info().rss
    ask(2000)
    before = ask(2000)
    print(ask(20_000) - before)
"""


def test_asking_for_the_hosts_again_and_again_takes_no_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STEADY], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) < 1 << 19


def test_running_machine_is_used_and_left_running(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp = tempfile.mkdtemp(prefix="vm")
    monkeypatch.setenv("PVM_TMP", tmp)
    script = (
        "from encamp import Cluster\nfrom encamp.testing import work\n"
        "for machine in ('running', None):\n"
        "    with Cluster('pvm', slots=2, machine=machine) as cluster:\n"
        "        assert not cluster._engine._member.machine.own\n"
        "        print(cluster.spawn(work.add, 1).result(20))\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        ["pvmd", "-nlocalhost"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline().startswith(b"/")
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.stdout.split() == ["2", "2"], done.stderr
            assert daemon.poll() is None
        finally:
            daemon.terminate()
    shutil.rmtree(tmp)


def test_a_running_machine_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVM_VMID", "none")
    with pytest.raises(EngineUnavailable, match="no virtual machine runs"):
        Cluster("pvm", machine="running")
    with pytest.raises(EngineUnavailable, match="'own' or 'running'"):
        Cluster("pvm", machine="mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to allow it")
def test_root_learns_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PVM_ALLOW_ROOT")
    with pytest.raises(EngineUnavailable, match="set PVM_ALLOW_ROOT=1"):
        Cluster("pvm", slots=1)


def test_a_missing_extra_is_said_and_leaves_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(EngineUnavailable, match="its extra 'pvm'"):
        Cluster("pvm", slots=1, machine="own")
    assert remains() == (set(), set())


def test_an_interpreter_that_is_not_there_is_said() -> None:
    with pytest.raises(EngineFailed, match="localhost: /no/python: no such file"):
        Cluster("pvm", slots=1, machine="own", python="/no/python")


def test_an_agent_that_cannot_start_says_why() -> None:
    with pytest.raises(EngineFailed, match="No module named"):
        Cluster("pvm", slots=1, machine="own", python=sys.executable, module="no_such_module")


def test_slots_are_no_pvm_tasks_and_agents_know_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENCAMP_TEST_VALUE", "seen")
    monkeypatch.setenv("PVM_RSH", "my_rsh")
    mine = {name: text for name, text in os.environ.items() if name.startswith("PVM")}
    with Cluster("pvm", slots=1, machine="own") as cluster:
        names = cluster.spawn(lambda: dict(os.environ)).result(PATIENCE)
        assert names["ENCAMP_TEST_VALUE"] == "seen"
        assert {name: names[name] for name in names if name.startswith("PVM")} == mine
        (agent,) = agents_of(cluster)
        inside = Path(f"/proc/{agent}/cmdline").read_bytes()
        assert b"seen" not in inside


@pytest.fixture
def member() -> Iterator[Membership]:
    """Of a controller that has no cluster."""
    engine = open_endpoint(slots=1, machine="own")
    yield engine._member
    engine.close()


def stranger_sends(member: Membership, messages: list[tuple[int, bytes]]) -> None:
    """Have another task of the machine send the controller something."""
    script = (
        "import sys\nfrom encamp.engines.pvm import libpvm\nlibpvm.mytid()\n"
        "for tag, data in eval(sys.argv[2]): libpvm.send(int(sys.argv[1]), tag, data)\n"
        "libpvm.leave()"
    )
    command = [sys.executable, "-c", script, str(member.tid), repr(messages)]
    with member.machine.known():
        subprocess.run(command, check=True, timeout=PATIENCE)


class Heard:
    """A member that notes what it is told."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, list[int], bytes]] = []

    def reported(self, tag: int, values: list[int], text: bytes) -> None:
        self.reports.append((tag, values, text))

    def wake(self) -> None:
        """It does not sleep."""


def test_messages_of_strangers_that_cannot_be_read_are_dropped(member: Membership) -> None:
    printed = [struct.pack("=ii", 7, size) + b"ab" for size in (2, -1, 1 << 16)]
    odd = (b"", b"\xc1", b"\x90", b"\x91\xff", *printed)
    heard = Heard()
    member.engines.append(heard)
    last = (ENDED, struct.pack("=i", 9))
    messages = [(tag, data) for tag in (*range(1, 9), *range(11, 14)) for data in odd]
    stranger_sends(member, [*messages, last])

    def all_read() -> bool:
        member.drain()
        return (ENDED, [9], b"") in heard.reports

    until(all_read)
    member.engines.remove(heard)
    assert member.failure == ""
    assert {text for _, _, text in heard.reports} == {b"", b"ab"}


def test_a_controller_that_finds_no_hosts_keeps_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PVMEngine, "machine_hosts", lambda self: [])
    open_before = None
    for _ in range(2):
        with pytest.raises(EngineFailed, match="none of the hosts"):
            open_endpoint(slots=1, machine="own")
        assert remains() == (set(), set())
        found = len(os.listdir("/proc/self/fd"))
        assert open_before in (None, found)
        open_before = found


@pytest.mark.parametrize("daemon_too", [False, True])
def test_a_keeper_that_is_killed_leaves_nothing_and_another_machine_may_follow(
    daemon_too: bool,
) -> None:
    with Cluster("pvm", slots=1, machine="own") as cluster:
        machine = engine_of(cluster)._member.machine
        assert isinstance(machine, OwnMachine)
        machine._owner.kill()
        machine._owner.wait()
        if daemon_too:
            os.kill(machine.process, signal.SIGKILL)
    assert gone(machine.process)
    assert remains()[0] == set()
    with Cluster("pvm", slots=1, machine="own") as again:
        assert again.spawn(work.add, 1).result(PATIENCE) == 2


def test_a_folder_that_is_left_is_used_again_if_it_is_ours() -> None:
    Cluster("pvm", slots=1, machine="own").close()
    folder = Path(pvm_machine._own_folder)
    folder.mkdir()
    (folder / "pvmd.old").touch()
    with Cluster("pvm", slots=1, machine="own") as again:
        assert again.spawn(work.add, 1).result(PATIENCE) == 2
    assert not folder.exists()
    folder.touch()
    try:
        with pytest.raises(EngineUnavailable, match="is not a folder of this user"):
            Cluster("pvm", slots=1, machine="own")
    finally:
        folder.unlink()


def test_controller_host_may_have_other_name_in_pvm() -> None:
    mine = [one for some in psutil.net_if_addrs().values() for one in some]
    addresses = [one.address for one in mine if one.family == socket.AF_INET]
    address = next((one for one in addresses if not one.startswith("127.")), "")
    need("a network", address != "")
    with Cluster(
        "pvm", slots=1, machine="own", address=address, hosts=[f"my_host ip={address}"]
    ) as cluster:
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2
        cluster.add_hosts(f"my_other_name ip={address}")
        assert len(cluster.hosts()) == 1


def test_a_forked_process_is_refused_a_cluster_of_its_own_at_once() -> None:
    reading, writing = os.pipe()
    with Cluster("pvm", slots=1) as cluster:
        if not (child := os.fork()):
            signal.alarm(int(NOTICED))  # if libpvm waits for what its parent reads
            try:
                Cluster("pvm", slots=1)
            except EngineUnavailable as exc:
                os.write(writing, str(exc).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading) as output:  # noqa: PTH123
            assert "was forked from one that is in a virtual machine" in output.read()
        os.waitpid(child, 0)
        assert cluster.spawn(abs, -1).result(PATIENCE) == 1
