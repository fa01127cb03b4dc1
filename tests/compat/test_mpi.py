"""The virtual machine on a scripted cluster: ids, slots, order of messages, return values."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rehearsal import RehearsedCluster

from encamp.cluster.events import Host, HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.compat.pyopus import PyOpusError, use_cluster
from encamp.compat.pyopus.base import (
    HostID,
    MsgHostAdd,
    MsgHostDelete,
    MsgTaskExit,
    MsgTaskResult,
    TaskID,
)
from encamp.compat.pyopus.cooperative import OpusOS
from encamp.compat.pyopus.mailbox import with_sender
from encamp.compat.pyopus.mpi import MPI, MPIHostID, MPITaskID
from encamp.errors import CannotTravel, ClusterClosed, EngineFailed, NoMatch, UnsafeTarget
from encamp.wire.protocol import Received

HERE = socket.gethostname()


@pytest.fixture
def cluster() -> Iterator[RehearsedCluster]:
    cluster = RehearsedCluster([(HERE, 3)])
    use_cluster(cluster)  # type: ignore[arg-type]
    yield cluster
    use_cluster(None)


@pytest.fixture
def spread() -> Iterator[RehearsedCluster]:
    cluster = RehearsedCluster([("one", 3), ("two", 2)])
    use_cluster(cluster)  # type: ignore[arg-type]
    yield cluster
    use_cluster(None)


def work() -> None:
    """Never called: the cluster only notes it."""


def end(cluster: RehearsedCluster, number: int, value: Any = None, ok: bool = True) -> None:
    cluster.coming.append(Received(number, TaskResult(number, ok, value)))
    cluster.coming.append(Received(number, TaskExit(number)))


def texts(ids: list[Any]) -> list[str]:
    return [str(one) for one in ids]


def test_ids_print_and_compare_as_those_of_pyopus() -> None:
    task, host = MPITaskID(2, 7), MPIHostID("one")
    assert (str(task), repr(task), task.valid()) == ("2:7", "MPITaskID(2, 7)", True)
    assert (str(host), repr(host), host.valid()) == ("one", "MPIHostID('one')", True)
    assert task == MPITaskID(2, 7)
    assert len({task, MPITaskID(2, 7), MPITaskID(7, 2), MPITaskID(2, 8)}) == 3
    assert {host, MPIHostID("one")} == {host}
    assert task != host
    assert task != (2, 7)


def test_bad_ids_are_invalid_and_hashable() -> None:
    bad = [MPITaskID.bad(), MPIHostID.bad(), TaskID.bad(), HostID.bad()]
    assert texts(bad) == ["MPI_NOTASK", "MPI_NOHOST", "NOTASK", "NOHOST"]
    assert not any(one.valid() for one in bad)
    assert len({*bad}) == 4
    assert MPITaskID(None, 3) == MPITaskID(-5, 3)
    assert TaskID() == TaskID()
    assert TaskID() != HostID()


def test_the_spawner_is_slot_0(cluster: RehearsedCluster) -> None:
    assert (str(MPI.taskID()), str(MPI.hostID()), str(MPI.parentTaskID())) == (
        "0:0",
        HERE,
        "MPI_NOTASK",
    )
    assert (MPI.slots(), MPI.freeSlots(), MPI.freeSlotsSet()) == (4, 3, {1, 2, 3})
    assert MPI.hosts() == [MPIHostID(HERE)]
    assert MPI.hostsWithFreeSlots() == {MPIHostID(HERE)}
    assert (MPI.rank, MPI.host, MPI.taskNumber) == (0, HERE, 0)


def test_without_a_cluster_there_are_no_slots_but_the_spawners() -> None:
    vm = MPI()
    assert (vm.slots(), vm.freeSlots(), vm.hostsWithFreeSlots()) == (1, 0, set())
    assert vm.spawnFunction(work) == []
    assert vm.receiveMessage(0) == ()
    assert vm.receiveMessage(0.01) == ()
    with pytest.raises(ClusterClosed):
        vm.receiveMessage()
    vm.clearLocalStorage()
    vm.finalize()


def test_slots_are_given_in_the_order_of_pyopus(cluster: RehearsedCluster) -> None:
    vm, seen = MPI(), []
    for number in range(1, 6):
        seen += texts(vm.spawnFunction(work, count=1))
        end(cluster, number)
        vm.receiveMessage()
        vm.receiveMessage()
    assert seen == ["1:1", "2:2", "3:3", "1:4", "2:5"]
    assert texts(vm.spawnFunction(work)) == ["3:6", "1:7", "2:8"]


def test_target_list_takes_last_slot_first(cluster: RehearsedCluster) -> None:
    vm = MPI()
    assert texts(vm.spawnFunction(work, targetList=vm.hosts(), count=2)) == ["3:1", "2:2"]


def test_a_spawn_gives_fewer_tasks_where_slots_are_short(cluster: RehearsedCluster) -> None:
    vm = MPI()
    assert vm.spawnFunction(work, count=0) == []
    assert len(vm.spawnFunction(work, count=2)) == 2
    assert len(vm.spawnFunction(work, count=2)) == 1
    assert vm.spawnFunction(work) == []
    assert (vm.freeSlots(), vm.hostsWithFreeSlots()) == (0, set())


def test_tasks_are_spread_over_hosts_most_free_first(spread: RehearsedCluster) -> None:
    vm = MPI()
    ids = vm.spawnFunction(work, count=4)
    assert [task.host for task in spread.spawned] == ["one", "one", "two", "one"]
    assert texts([vm.hostID(task) for task in ids]) == ["one", "one", "two", "one"]
    assert vm.hostsWithFreeSlots() == {MPIHostID("two")}
    assert texts(vm.hosts()) == [HERE, "one", "two"]
    assert vm.spawnFunction(work, targetList=[MPIHostID("one")]) == []
    assert len(vm.spawnFunction(work, targetList=[MPIHostID("two")])) == 1


def test_slot_is_free_after_exit_which_follows_result(
    cluster: RehearsedCluster,
) -> None:
    vm = MPI()
    [task] = vm.spawnFunction(work, count=1)
    end(cluster, 1, "value")
    sender, result = vm.receiveMessage()
    assert (sender, type(result)) == (task, MsgTaskResult)
    assert (result.success, result.returnValue, result.error) == (True, "value", None)
    assert vm.freeSlots() == 2
    sender, left = vm.receiveMessage()
    assert (sender, type(left), left.taskID) == (task, MsgTaskExit, task)
    assert vm.freeSlots() == 3


def test_without_send_back_only_exit_arrives(cluster: RehearsedCluster) -> None:
    vm = MPI()
    vm.spawnFunction(work, count=1, sendBack=False)
    end(cluster, 1, "value")
    assert type(vm.receiveMessage()[1]) is MsgTaskExit


@pytest.mark.parametrize("send_back", [True, False])
def test_error_is_printed_and_returned_without_success(
    cluster: RehearsedCluster, capsys: pytest.CaptureFixture[str], send_back: bool
) -> None:
    vm, error = MPI(), ValueError("unheard of")
    vm.spawnFunction(work, count=1, sendBack=send_back)
    end(cluster, 1, error, ok=False)
    if send_back:
        result = vm.receiveMessage()[1]
        assert (result.success, result.returnValue, result.error) == (False, None, error)
    assert type(vm.receiveMessage()[1]) is MsgTaskExit
    assert f"task 1:1 on {HERE} failed:\nValueError: unheard of" in capsys.readouterr().err


def test_an_error_that_a_join_raises_is_not_printed(
    cluster: RehearsedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    system = OpusOS(MPI())
    system.Spawn(work, remote=True)
    end(cluster, 1, ValueError("unheard of"), ok=False)
    with pytest.raises(ValueError, match="unheard of"):
        system.Join()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("given", "asked"), [(-1.0, None), (0, 0), (2.5, 2.5)])
def test_negative_timeouts_wait_without_end(
    cluster: RehearsedCluster, given: float, asked: float | None
) -> None:
    cluster.coming.append(Received(1, with_sender(1, "hello")))
    assert MPI().receiveMessage(given) == (MPITaskID(1, 1), "hello")
    assert cluster.waits == [pytest.approx(asked, abs=0.1)]


def test_receive_timeout_returns_empty_tuple(cluster: RehearsedCluster) -> None:
    assert MPI().receiveMessage(0) == ()
    assert MPI().receiveMessage(0.01) == ()


def test_unreadable_message_is_none_and_next_arrives(cluster: RehearsedCluster) -> None:
    cluster.coming.extend([AttributeError("no such class"), Received(1, with_sender(1, "next"))])
    vm = MPI()
    assert vm.receiveMessage() is None
    assert vm.receiveMessage() == (MPITaskID(1, 1), "next")


def test_ended_cluster_raises_error(cluster: RehearsedCluster) -> None:
    cluster.coming.append(EngineFailed("mpi", "all ranks are gone"))
    with pytest.raises(EngineFailed):
        MPI().receiveMessage()


def test_messages_of_one_task_can_be_waited_for_and_others_stay(cluster: RehearsedCluster) -> None:
    vm = MPI()
    one, two = vm.spawnFunction(work, count=2)
    cluster.coming.extend([Received(1, with_sender(1, "a")), Received(1, with_sender(1, "b"))])
    cluster.coming.append(Received(2, with_sender(2, "c")))
    assert vm.receiveMessage(-1, fromDestination=two) == (two, "c")
    assert vm.receiveMessage(0, fromDestination=two) == ()
    assert vm.checkForIncoming(one)
    assert not vm.checkForIncoming(two)
    assert [vm.receiveMessage(0)[1] for _ in range(2)] == ["a", "b"]
    assert not vm.checkForIncoming()


def test_looking_for_messages_takes_none_and_frees_no_slot(cluster: RehearsedCluster) -> None:
    vm = MPI()
    vm.spawnFunction(work, count=1)
    end(cluster, 1)
    assert vm.checkForIncoming()
    assert vm.checkForIncoming()
    assert vm.freeSlots() == 2
    assert type(vm.receiveMessage()[1]) is MsgTaskResult
    assert type(vm.receiveMessage()[1]) is MsgTaskExit
    assert vm.freeSlots() == 3


def test_messages_are_sent_with_the_slot_of_their_sender(cluster: RehearsedCluster) -> None:
    vm = MPI()
    [task] = vm.spawnFunction(work, count=1)
    assert vm.sendMessage(task, [1, 2]) is True
    assert cluster.sent == [(1, with_sender(0, [1, 2]))]


def test_unsendable_message_returns_false(
    cluster: RehearsedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(task: int, message: Any) -> None:
        raise CannotTravel("a lock", "it is a lock")

    monkeypatch.setattr(cluster, "send", refuse)
    vm = MPI()
    [task] = vm.spawnFunction(work, count=1)
    assert vm.sendMessage(task, "x") is False


def test_message_to_ended_task_is_dropped(cluster: RehearsedCluster) -> None:
    vm = MPI()
    [task] = vm.spawnFunction(work, count=1)
    end(cluster, 1)
    vm.receiveMessage()
    vm.receiveMessage()
    assert vm.sendMessage(task, "too late") is True
    assert cluster.sent == []


def test_a_function_that_cannot_travel_leaves_its_slot_free(cluster: RehearsedCluster) -> None:
    vm, cluster.refusal = MPI(), CannotTravel("it", "of a lock")
    with pytest.raises(CannotTravel):
        vm.spawnFunction(work, count=1)
    assert vm.freeSlots() == 3


def test_joining_and_leaving_hosts_are_reported_and_used(spread: RehearsedCluster) -> None:
    vm = MPI()
    new = Host("new", slots=2, cores=1, memory=0)
    spread.sizes = [*spread.sizes, ("new", 2)]
    spread.coming.append(Received(0, HostAdded(new)))
    spread.coming.extend([*spread.coming, Received(1, with_sender(1, "told once"))])
    sender, message = vm.receiveMessage()
    assert (type(message), message.hostIDs) == (MsgHostAdd, [MPIHostID("new")])
    assert not sender.valid()
    assert vm.receiveMessage()[1] == "told once"
    assert (vm.slots(), vm.freeSlotsSet()) == (8, {1, 2, 3, 4, 5, 6, 7})
    [task] = vm.spawnFunction(work, count=1, targetList=message.hostIDs)
    spread.coming.append(Received(0, HostDeleted(new)))
    message = vm.receiveMessage()[1]
    assert (type(message), message.hostID) == (MsgHostDelete, MPIHostID("new"))
    assert (vm.slots(), vm.freeSlots()) == (6, 5)
    end(spread, 1, RuntimeError("gone"), ok=False)
    assert vm.receiveMessage()[0] == task
    assert vm.receiveMessage()[1].taskID == task
    assert (vm.slots(), vm.freeSlots()) == (6, 5)
    assert str(vm.hostID(task)) == "new"


def test_slots_that_a_host_loses_or_gets_are_noticed(spread: RehearsedCluster) -> None:
    vm = MPI()
    [first] = vm.spawnFunction(work, count=1)
    spread.sizes = [("one", 1), ("two", 4)]
    assert (vm.slots(), vm.freeSlotsSet()) == (6, {4, 5, 6, 7})
    assert len(vm.spawnFunction(work)) == 4
    assert vm.spawnFunction(work) == []
    end(spread, first.number)
    while vm.receiveMessage(0):
        pass
    assert vm.freeSlotsSet() == {1}


def test_events_of_tasks_that_others_have_spawned_are_not_shown(cluster: RehearsedCluster) -> None:
    cluster.coming.extend([Received(77, TaskResult(77, True, 1)), Received(77, TaskExit(77))])
    cluster.coming.append(Received(1, with_sender(1, "mine")))
    assert MPI().receiveMessage()[1] == "mine"


def test_the_configuration_is_printed_as_by_pyopus(cluster: RehearsedCluster) -> None:
    vm = MPI()
    cores = os.cpu_count()
    assert vm.formatSpawnerConfig() == (
        f"{HERE} ncpu={cores} free slots: [1, 2, 3]\n\tslot=   0 task=   0\n"
    )
    vm.spawnFunction(work, count=2)
    assert vm.formatSpawnerConfig() == (
        f"{HERE} ncpu={cores} free slots: [3]\n"
        "\tslot=   0 task=   0\n\tslot=   1 task=   1\n\tslot=   2 task=   2\n"
    )
    status = MPI.vmStatus
    assert status is not None
    assert status["slots"][2] == {"host": HERE, "taskNumber": 2}
    assert status["slots"][3]["taskNumber"] == -1
    assert status["usedSlots"] == {0, 1, 2}
    assert status["hosts"][HERE]["freeSlots"] == status["freeSlots"] == {3}


def test_given_cluster_stays_open_but_tasks_are_notified(cluster: RehearsedCluster) -> None:
    vm = MPI()
    vm.spawnFunction(work, count=2)
    vm.finalize()
    vm.finalize()
    assert [to for to, _ in cluster.sent] == [1, 2]
    assert cluster.closed == 0
    with pytest.raises(ClusterClosed):
        vm.spawnFunction(work, count=1)


def test_virtual_machines_are_numbered(cluster: RehearsedCluster) -> None:
    first, second, third = MPI(), MPI(), MPI()
    assert second.vmIndex == first.vmIndex + 1
    assert third.vmIndex == first.vmIndex + 2


def test_debug_messages_have_pyopus_form(
    cluster: RehearsedCluster, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    (here / "a.txt").write_text("x")
    MPI(mirrorMap={"*.txt": "in"})
    assert capsys.readouterr().out == ""
    MPI(1, mirrorMap={"*.txt": "in"})
    mirror, made = capsys.readouterr().out.splitlines()
    assert mirror.startswith(f"{HERE}_{os.getpid():x}_")
    assert " VM: " in mirror
    assert "*.txt" in mirror
    assert made.endswith(f" MPI: new virtual machine, rank=0 on {HERE}")


def test_a_mirror_map_is_checked_when_the_machine_is_made(here: Path) -> None:
    (here / "a.txt").write_text("x")
    with pytest.raises(NoMatch, match=r"\*\.dat"):
        MPI(mirrorMap={"*.dat": "."})
    with pytest.raises(UnsafeTarget):
        MPI(mirrorMap={"a.txt": "/etc"})


def test_only_the_spawner_knows_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    from encamp.compat.pyopus import clustered

    task = SimpleNamespace(id=4, host="far", in_program=False)
    monkeypatch.setitem(clustered.running, 4, SimpleNamespace(place=2, task=task, mail=None))
    assert (str(MPI.taskID()), str(MPI.hostID()), str(MPI.parentTaskID())) == ("2:4", "far", "0:0")
    assert MPI.vmStatus is None
    for ask in (MPI.slots, MPI.freeSlots, MPI.hosts, MPI.formatSpawnerConfig, MPI.finalize):
        with pytest.raises(PyOpusError, match="only the spawner"):
            ask()
