"""The virtual machine on PVM: ids and calls on a scripted cluster, the rest on a real PVM."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rehearsal import RehearsedCluster, RehearsedTask

from conftest import need
from encamp.cluster.events import Host, HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.cluster.spawn_options import SpawnOptions
from encamp.compat.pyopus import PyOpusError, use_cluster
from encamp.compat.pyopus.base import MsgHostAdd, MsgHostDelete, MsgTaskExit, MsgTaskResult
from encamp.compat.pyopus.mailbox import with_sender
from encamp.compat.pyopus.pvm import PVM, PVMHostID, PVMTaskID, use_machine
from encamp.compat.pyopus.pvm_id_bits import host_of, task_number, task_tid
from encamp.compat.pyopus.spawner import opened, use
from encamp.errors import EngineUnavailable, NoSuchHost, TaskKilled
from encamp.storage.shared_folders import MIRRORED
from encamp.testing.waiting import until
from encamp.wire.protocol import Received
from lab import Lab, missing

HERE = socket.gethostname()
SCRIPTS = Path(__file__).parent / "scripts"
HOST = 1 << 18


@pytest.fixture(autouse=True)
def nothing_open() -> Iterator[None]:
    """Other tests of this process may have left a machine without a cluster."""
    use(None)
    yield
    use(None)


class Rehearsed(RehearsedCluster):
    """Notes also how tasks are to be run, and which of them were killed."""

    def __init__(self, sizes: list[tuple[str, int]]) -> None:
        super().__init__(sizes)
        self.killed: list[int] = []

    def spawn(self, function: Any, args: Any, kwargs: Any, options: SpawnOptions) -> RehearsedTask:
        task = super().spawn(function, args, kwargs, options)
        task.kill = lambda: self.killed.append(task.id)  # type: ignore[attr-defined]
        return task


def test_a_machine_whose_cluster_was_closed_has_ended(spread: Rehearsed) -> None:
    vm = PVM()
    assert vm.updateSpawnerInfo() is True
    spread.close()
    assert vm.updateSpawnerInfo() is False


@pytest.fixture
def spread() -> Rehearsed:
    cluster = Rehearsed([("one", 3), ("two", 2)])
    use_cluster(cluster)  # type: ignore[arg-type]
    return cluster


def work() -> None:
    """Never called: the cluster only notes it."""


def end(cluster: RehearsedCluster, number: int, value: Any = None, ok: bool = True) -> None:
    cluster.coming.append(Received(number, TaskResult(number, ok, value)))
    cluster.coming.append(Received(number, TaskExit(number)))


# Ids


def test_ids_are_integers_that_print_and_compare_as_those_of_pyopus() -> None:
    task, host = PVMTaskID(0x40003), PVMHostID(0x40000, "alpha")
    assert (task.tid, str(task), repr(task)) == (262147, "40003", "PVMTaskID(262147)")
    assert (host.dtid, host.name, str(host)) == (262144, "alpha", "alpha(40000)")
    assert str(PVMHostID(0x40000)) == "Unknown(40000)"
    assert host == PVMHostID(0x40000, "by another name")
    assert len({task, PVMTaskID(0x40003), PVMTaskID(0x40004), host}) == 3
    assert PVMTaskID(1) < PVMTaskID(2) <= PVMTaskID(2)
    assert PVMHostID(3) > PVMHostID(2)
    assert task != 0x40003
    for bad in (PVMTaskID.bad(), PVMTaskID(None), PVMTaskID(-7)):
        assert (bad.tid, str(bad), bad.valid()) == (-1, "PVM_NOTASK", False)
    assert str(PVMHostID.bad()) == "PVM_NOHOST"
    assert task.valid()
    assert host.valid()


@pytest.mark.parametrize("number", [1, 2, 131_071, 131_072, 131_073, 10**6, 10**12])
def test_task_id_contains_host_and_is_unique(number: int) -> None:
    for dtid in (HOST, 2 * HOST, 4095 * HOST):
        tid = task_tid(dtid, number)
        assert (host_of(tid), task_number(tid)) == (dtid, number)
        assert tid != task_tid(dtid, number + 1)
        assert (tid & 0x3FFFF) > 131_071, "PVM itself begins to count from 1"
    assert task_tid(HOST, 7) < 1 << 31


# Calls, on a rehearsed cluster


def test_hosts_and_slots_are_counted_without_the_spawners(spread: Rehearsed) -> None:
    vm = PVM()
    assert (vm.slots(), vm.freeSlots(), vm.freeSlotsSet()) == (5, 5, {1, 2, 3, 4, 5})
    assert [str(host) for host in vm.hosts()] == ["one(40000)", "two(80000)"]
    assert vm.hostsWithFreeSlots() == {*vm.hosts()}
    [*_, last] = vm.spawnFunction(work, count=4)
    assert [task.host for task in spread.spawned] == ["one", "one", "two", "one"]
    assert vm.hostID(last) == vm.hosts()[0]
    assert vm.orderHosts(vm.hosts()) == vm.hosts()[::-1]
    assert vm.orderHosts([vm.hosts()[0], PVMHostID(77 * HOST)]) == [vm.hosts()[0]]
    assert len(vm.spawnFunction(work, targetList=[vm.hosts()[1]])) == 1
    assert vm.spawnFunction(work) == []
    assert (vm.slots(), vm.freeSlots()) == (5, 0)


def test_the_status_is_that_of_pyopus(spread: Rehearsed) -> None:
    vm = PVM()
    [task] = vm.spawnFunction(work, count=1)
    status = PVM.pvmStatus
    assert status is not None
    assert status["hosts"][HOST] == {
        "speed": 1000,
        "arch": "LINUX64",
        "name": "one",
        "task_count": 1,
        "ncpu": os.cpu_count(),
        "responsive": True,
    }
    assert status["tasks"][task.tid] == {
        "parent": PVM.tid,
        "dtid": HOST,
        "flags": 0,
        "name": "work",
        "pid": -1,
    }
    assert status["narch"] == 1
    assert set(status["tasks"]) == {PVM.tid, task.tid}


@pytest.mark.parametrize(
    ("options", "fresh"),
    [
        ({}, True),
        ({"freshInterpreter": False}, False),
        ({"persistentStorage": True, "mirrorMap": {}}, False),
        ({"freshInterpreter": True}, True),
    ],
)
def test_tasks_get_a_fresh_interpreter_unless_something_is_to_stay(
    spread: Rehearsed, options: dict[str, Any], fresh: bool
) -> None:
    PVM(**options).spawnFunction(work, count=1)
    assert spread.spawned[0].fresh is fresh


def test_joining_and_leaving_hosts_are_reported_with_ids(spread: Rehearsed) -> None:
    vm, new = PVM(), Host("new", slots=2, cores=1, memory=0)
    [task] = vm.spawnFunction(work, count=1, targetList=[vm.hosts()[1]])
    spread.sizes = [*spread.sizes, ("new", 2)]
    spread.coming.append(Received(0, HostAdded(new)))
    sender, message = vm.receiveMessage()
    assert (type(message), [str(host) for host in message.hostIDs]) == (MsgHostAdd, ["new(100000)"])
    assert not sender.valid()
    assert vm.slots() == 7
    gone = Host("two", slots=2, cores=1, memory=0)
    spread.sizes = [("one", 3), ("new", 2)]
    spread.coming.append(Received(0, HostDeleted(gone)))
    end(spread, 1, RuntimeError("gone"), ok=False)
    message = vm.receiveMessage()[1]
    assert (type(message), message.hostID) == (MsgHostDelete, PVMHostID(2 * HOST))
    assert type(vm.receiveMessage()[1]) is MsgTaskResult
    assert vm.receiveMessage()[1].taskID == task
    assert [str(host) for host in vm.hosts()] == ["one(40000)", "new(100000)"]
    assert vm.spawnFunction(work, targetList=[PVMHostID(2 * HOST)]) == []
    assert vm.slots() == vm.freeSlots() == 5


def test_messages_have_the_id_of_their_sender(spread: Rehearsed) -> None:
    vm = PVM()
    [task] = vm.spawnFunction(work, count=1)
    spread.coming.append(Received(1, with_sender(HOST, "hello")))
    assert vm.receiveMessage() == (task, "hello")
    assert vm.sendMessage(PVMTaskID(task.tid), "back") is True
    assert spread.sent == [(1, with_sender(HOST * 3, "back"))]
    assert vm.sendMessage(PVMTaskID.bad(), "nobody") is False


@pytest.mark.parametrize(("given", "asked"), [(-1.0, None), (0, 0), (2.5, 2.5)])
def test_negative_timeouts_wait_without_end(
    spread: Rehearsed, given: float, asked: float | None
) -> None:
    spread.coming.append(Received(1, with_sender(HOST, "hello")))
    assert PVM().receiveMessage(given)[1] == "hello"
    assert spread.waits == [pytest.approx(asked, abs=0.1)]
    assert PVM().receiveMessage(0) == ()
    assert PVM().receiveMessage(0.01) == ()


def test_killed_task_has_exit_but_no_result(
    spread: Rehearsed, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = PVM()
    one, two = vm.spawnFunction(work, count=2)
    assert vm.kill(PVMTaskID(one.tid)) is True
    assert vm.freeSlots() == 3
    end(spread, 1, TaskKilled("1", "one"), ok=False)
    assert vm.receiveMessage()[1].taskID == one
    assert (vm.freeSlots(), vm.kill(one), vm.kill(PVMTaskID.bad())) == (4, False, False)
    vm.killAll()
    assert spread.killed == [1, 2]
    end(spread, 2, "it was quicker")
    assert vm.receiveMessage()[1].returnValue == "it was quicker"
    assert vm.receiveMessage()[1].taskID == two
    assert capsys.readouterr().err == ""


def test_without_a_machine_nothing_is_known() -> None:
    assert (PVM.tid, PVM.ptid, PVM.dtid, PVM.pvmStatus) == (None, None, None, None)
    assert opened() is None
    assert not PVM.parentTaskID().valid()
    PVM.finalize()
    use_cluster(None)
    vm = PVM()
    assert (vm.alive(), vm.slots(), vm.hosts()) == (False, 0, [])
    assert vm.waitForVM(0.02, 2) is False


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda vm: vm.spawnFunction("f"), "only a callable can be spawned, not 'f'"),
        (lambda vm: vm.spawnFunction(work, count=-1), "an integer, 0 or more, not -1"),
        (lambda vm: vm.spawnFunction(work, count=1.5), "an integer, 0 or more, not 1.5"),
        (lambda vm: vm.spawnFunction(work, targetList=PVMHostID(1)), "a list of hosts' ids, not"),
        (lambda vm: vm.spawnFunction(work, targetList=["one"]), "is a PVMHostID, not 'one'"),
        (lambda vm: vm.receiveMessage("soon"), "timeout must be a number of seconds, not 'soon'"),
        (lambda vm: vm.updateSpawnerInfo(None), "timeout must be a number of seconds, not None"),
        (lambda vm: vm.waitForVM(1, 0), "beatsPerTimeout must be 1 or more, not 0"),
        (lambda vm: vm.sendMessage(7, "x"), "a task's id is a PVMTaskID, not 7"),
        (lambda vm: vm.kill("t40001"), "a task's id is a PVMTaskID, not 't40001'"),
        (lambda vm: vm.hostID(7), "a task's id is a PVMTaskID, not 7"),
        (lambda vm: PVMTaskID("7"), "a tid is an integer, not '7'"),
        (lambda vm: PVMHostID("one"), "a dtid is an integer, not 'one'"),
        (lambda vm: use_machine("mine"), "the machine is 'running', 'own' or None, not 'mine'"),
        (lambda vm: use_machine("own"), "the program is in a virtual machine already"),
        (lambda vm: PVM(persistentStorage=True, freshInterpreter=True), "not a fresh one"),
    ],
)
def test_bad_input_is_said_in_one_sentence(
    spread: Rehearsed, call: Callable[[PVM], object], said: str
) -> None:
    with pytest.raises(PyOpusError, match=re.escape(said)) as caught:
        call(PVM())
    assert "\n" not in str(caught.value)
    assert spread.spawned == []


def test_unknown_host_is_reported(spread: Rehearsed) -> None:
    with pytest.raises(NoSuchHost, match=r"Unknown\(1340000\).*one\(40000\)"):
        PVM().spawnFunction(work, targetList=[PVMHostID(77 * HOST)])


# On PVM itself


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the files of virtual machines; afterwards there are none, and no daemons."""
    need("pvm", shutil.which("pvmd") is not None)
    folder = Path(tempfile.mkdtemp(prefix="vm-", dir="/tmp"))
    for name, value in {"PVM_ALLOW_ROOT": "1", "PVM_TMP": folder, "TMPDIR": folder}.items():
        monkeypatch.setenv(name, str(value))
    yield folder
    PVM.finalize()
    use_machine()
    try:
        until(lambda: not (daemons(folder) or left_in(folder)), 20)
    finally:
        shutil.rmtree(folder)


def left_in(folder: Path) -> list[Path]:
    """Files of machines: there, and where this process itself has its own."""
    base = Path(tempfile.gettempdir())
    return [*folder.iterdir(), *base.glob(f"encamp-pvm-{os.getpid()}-*")]


def daemons(folder: Path) -> list[int]:
    """The daemons that work in a folder."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.name() in ("pvmd", "pvm") and str(folder) in str(process.environ()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *args]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


CONFIG = r"""Architectures: 1

Hosts and tasks:
dtid=40000   speed=1000    arch=\w+ ncpu=\d+ +localhost
	tid=40001   flags=0   pid=\d+ +'pvm_spawn.py'
"""
TASKS = "".join(f"\ttid=6000{number}   flags=0   pid=-1      'greet'\n" for number in (1, 2))


@pytest.mark.parametrize("debug", ["0", "2"])
def test_tasks_are_spawned_and_have_the_ids_that_they_see_themselves(
    machines: Path, debug: str
) -> None:
    done = run("pvm_spawn.py", debug)
    place = f"at {HERE}(40000), child of 40001, in {SCRIPTS}"
    output = {id_: [f"{id_} {place}", f"exit of {id_}"] for id_ in ("60001", "60002")}
    for part in [
        "before None None None None\nalive True True\n",
        "me 40001 localhost(40000) PVM_NOTASK ['localhost(40000)']\n",
        "slots 2 2 {1, 2} {PVMHostID(262144, 'localhost')}\n",
        "spawned ['60001', '60002'] ['localhost(40000)', 'localhost(40000)']\nfull 0 []\n",
        f"told {output}\ntasks True ",
        "fresh 3\nkept True\n",
        "after None None\n",
    ]:
        assert part in done.stdout
    assert len(re.findall(CONFIG, done.stdout)) == 2
    assert len(re.findall(CONFIG + re.escape(TASKS), done.stdout)) == 1
    greetings = [line for line in done.stdout.splitlines() if "greeting from" in line]
    wanted = [f"[t6000{n}] greeting from 6000{n}" for n in (1, 2)] if debug == "2" else []
    assert sorted(greetings) == wanted
    assert ("PVM: task 60001 has ended" in done.stdout) is (debug == "2")


def test_messages_go_between_spawner_and_tasks(machines: Path) -> None:
    assert run("pvm_talk.py").stdout.splitlines() == [
        *(f"{size} True True" for size in [0, 1, 1000, 100000, 10000000]),
        "True",
        "nothing () () False",
        "nobody False True",
        "came True",
        "locked False",
        "[None]",
        "2 True",
        "[((), (), False)]",
        "finished",
    ]


def test_failures_deaths_kills_and_machine_end_are_reported(machines: Path) -> None:
    done = run("pvm_mishaps.py")
    assert done.stdout.splitlines() == [
        "raise True",
        "exit True",
        "one True",
        "True True True",
        "again False itself False",
        "all True True",
        "lost True True False",
        "exit True",
        "failed False False",
        "new True True",
        "7",
    ]
    failures = re.findall(rf"task \w+ on {HERE} failed:", done.stderr)
    assert len(failures) == 3
    for text in ["LookupError: no bread", "exit status 3", "daemon of this host"]:
        assert text in done.stderr


def test_mirrored_files_are_in_a_folder_that_is_called_as_by_pyopus(
    machines: Path, here: Path
) -> None:
    for name in ["a.cir", "b.cir", "models/m.lib"]:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("x")
    output = run("pvm_storage.py", str(here)).stdout.splitlines()
    folders = [line for line in output if line.startswith("pyopus-")]
    assert {*folders} == {f"pyopus-{getpass.getuser()} PID_vm{number}" for number in (0, 3)}
    assert [line for line in output if line not in folders] == [
        "['a.cir', 'b.cir', 'lib/models/m.lib']",
        "['a.cir', 'b.cir', 'lib/models/m.lib']",
        "['m.lib']",
        "models",
        "['a.cir', 'b.cir']",
        "used again: True",
        "after clearing: ['a.cir', 'b.cir']",
    ]


def test_starting_machine_is_awaited_and_left_unchanged(machines: Path) -> None:
    command = [sys.executable, "pvm_running.py"]
    with subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "False False\n"
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with subprocess.Popen(["pvmd", "-nlocalhost"], **pipes) as daemon:
            try:
                assert script.communicate(timeout=60)[0] == "True True\nTrue\n"
                assert script.returncode == 0
                assert daemon.poll() is None
            finally:
                daemon.terminate()
    for file in machines.glob("pvm*"):  # a daemon that is told to end leaves its log
        file.unlink()


def test_asking_for_the_state_again_and_again_takes_no_memory(machines: Path) -> None:
    assert int(run("pvm_state.py").stdout) < 1 << 18


def test_the_cooperative_system_outsources_tasks(machines: Path) -> None:
    assert run("pvm_outsource.py").stdout.splitlines() == [
        "slots 3 free 3",
        "[2, 3]",
        "[(2, 2), (3, 4)]",
        str([n * n for n in range(12)]),
        "failed: division by zero",
    ]


def test_the_sample_of_the_documentation_runs(machines: Path, here: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/pyopus.md").read_text()
    [sample] = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (here / "sample.py").write_text(sample)
    done = run(str(here / "sample.py"))
    loads = re.findall(r"^localhost\(40000\) \(\d", done.stdout, re.MULTILINE)
    assert len(loads) == len(os.sched_getaffinity(0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to allow it")
def test_where_pvm_cannot_be_used_that_is_said(
    machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PVM_ALLOW_ROOT")
    for ask in (PVM().alive, PVM().waitForVM, PVM().slots):
        with pytest.raises(EngineUnavailable, match="set PVM_ALLOW_ROOT=1"):
            ask()
    assert opened() is None


# On several hosts


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, machines: Path) -> Iterator[Lab]:
    lacking = missing()
    need(str(lacking), lacking is None)
    with Lab(2, variables={"PVM_ALLOW_ROOT": "1"}) as lab:
        for name, value in {**lab.environment, MIRRORED: str(lab.share)}.items():
            monkeypatch.setenv(name, value)
        yield lab
        PVM.finalize()


def news(vm: PVM, kind: type) -> tuple[Any, list[Any]]:
    """The next message of a kind, and what came before it."""
    before: list[Any] = []
    while True:
        received = vm.receiveMessage(30)
        assert received, f"no {kind.__name__} has come, only {before}"
        if type(received[1]) is kind:
            return received[1], before
        before.append(received[1])


def add(vm: PVM, lab: Lab, number: int) -> PVMHostID:
    """Add a host of the lab to the machine; its id as it is told."""
    from encamp.engines.pvm.add_hosts import add_hosts

    ours, host = opened(), lab.hosts[number]
    assert ours is not None
    member = ours.cluster._engine._member  # type: ignore[union-attr]
    with member.lock:
        add_hosts(member.machine, [f"{host.name} ip={host.address}"])
    message, _ = news(vm, MsgHostAdd)
    [new] = message.hostIDs
    assert new.name == host.name
    assert isinstance(new, PVMHostID)
    return new


def state(host: PVMHostID) -> dict[str, Any]:
    assert PVM.pvmStatus is not None
    found: dict[str, Any] = PVM.pvmStatus["hosts"][host.dtid]
    return found


def test_hosts_are_added_set_aside_while_silent_and_lost(lab: Lab) -> None:
    use_machine("own", slots=1, address=lab.address)
    vm = PVM()
    vm.spawnerBarrier(timeout=30.0)
    [here] = vm.hosts()
    one, two = add(vm, lab, 0), add(vm, lab, 1)
    assert vm.hosts() == sorted([here, one, two])
    assert len({here.dtid, one.dtid, two.dtid}) == 3
    assert (vm.slots(), state(one)["responsive"], state(one)["name"]) == (3, True, one.name)

    tasks = vm.spawnFunction(socket.gethostname, targetList=[one, two])
    assert [vm.hostID(task) for task in tasks] == [one, two]
    results = [news(vm, MsgTaskResult)[0].returnValue for _ in tasks]
    assert sorted(results) == sorted([one.name, two.name])
    news(vm, MsgTaskExit)

    lab.hosts[1].freeze()
    vm.updateCoreCount(timeout=2.0)
    assert (state(one)["responsive"], state(two)["responsive"]) == (True, False)
    assert (two in vm.hosts(), two in vm.orderHosts([one, two]), vm.slots()) == (False, False, 2)
    assert vm.spawnFunction(work, targetList=[two]) == []
    assert "not responsive lab2" in vm.formatSpawnerConfig()
    lab.hosts[1].thaw()
    assert vm.updateSpawnerInfo(timeout=20.0) is True
    assert (state(two)["responsive"], vm.slots(), vm.freeSlots()) == (True, 3, 3)

    stays, lost = vm.spawnFunction(time.sleep, [1000], targetList=[one, two])
    lab.hosts[1].kill()
    deleted, before = news(vm, MsgHostDelete)
    assert deleted.hostID == two
    assert [message.taskID for message in before if type(message) is MsgTaskExit] == [lost]
    assert (two in vm.hosts(), vm.slots(), vm.freeSlots()) == (False, 2, 1)
    assert vm.kill(stays)
    assert news(vm, MsgTaskExit)[0].taskID == stays
    assert vm.freeSlots() == 2
