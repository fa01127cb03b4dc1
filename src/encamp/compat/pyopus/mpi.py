"""The virtual machine on MPI: ``mpirun -n N python script.py`` runs the script on rank 0 only.

The other ranks become slots when this module is imported. Without mpirun there are no slots, as in
PyOPUS, unless the program has said `encamp.compat.pyopus.use_cluster`.

Different from PyOPUS on purpose: a task's exception is printed where the spawner runs and comes as
``MsgTaskResult`` with ``success`` False, and the program goes on; so it does when a task's process
dies. Tasks run in processes of their own on their rank's host and do not take part in MPI. Waiting
uses no processor. ``finalize()`` may come while messages are under way.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encamp.agent.calls import CurrentTask, Received, current_task
from encamp.cluster.events import HostAdded, HostDeleted, TaskExit, TaskResult
from encamp.compat.pyopus.base import (
    HostID,
    MsgHostAdd,
    MsgHostDelete,
    MsgTaskExit,
    MsgTaskResult,
    PyOpusError,
    TaskID,
    VirtualMachine,
)
from encamp.compat.pyopus.machine import (
    Finish,
    Finished,
    Letter,
    Machine,
    Mailbox,
    machine,
    open_under_mpirun,
)
from encamp.errors import ClusterClosed, ClusterError
from encamp.storage.leftovers import reclaim_leftovers

__all__ = ["MPI", "MPIHostID", "MPITaskID"]


class MPIHostID(HostID):
    """A host by its ``name``; None for no host."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    @staticmethod
    def bad() -> MPIHostID:
        """An id that belongs to no host."""
        return MPIHostID(None)

    def valid(self) -> bool:
        """Whether it has a name."""
        return self.name is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MPIHostID) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return "MPI_NOHOST" if self.name is None else self.name

    def __repr__(self) -> str:
        return f"MPIHostID({self.name!r})"


class MPITaskID(TaskID):
    """A task by its slot, ``rank``, and the ``number`` that the spawner gave it."""

    def __init__(self, rank: int | None, number: int | None = None) -> None:
        self.rank = -1 if rank is None or rank < 0 else rank
        self.number = number

    @staticmethod
    def bad() -> MPITaskID:
        """An id that belongs to no task."""
        return MPITaskID(-1)

    def valid(self) -> bool:
        """Whether it has a rank."""
        return self.rank >= 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MPITaskID):
            return False
        return (self.rank, self.number) == (other.rank, other.number)

    def __hash__(self) -> int:
        return self.rank + (self.number or 0)  # sets of ids are printed in PyOPUS's order

    def __str__(self) -> str:
        return f"{self.rank}:{self.number}" if self.valid() else "MPI_NOTASK"

    def __repr__(self) -> str:
        return f"MPITaskID({self.rank!r}, {self.number!r})"


@dataclass(frozen=True, eq=False)
class _Here:
    """The task that runs in a slot."""

    rank: int
    task: CurrentTask
    mail: Mailbox


_running: dict[int, _Here] = {}
"""The tasks that run in this process, by their numbers."""


def _here() -> _Here | None:
    """The task that asks, also from a thread that it has started; None in the spawner."""
    try:
        return _running.get(current_task().id)
    except RuntimeError:
        return next(iter(_running.values())) if len(_running) == 1 else None


def _spawner() -> Machine:
    if _here() is not None:
        raise PyOpusError("this task is not the spawner; only the spawner knows hosts and slots")
    return machine()


class _Facts(type):
    """What PyOPUS keeps in attributes of the class."""

    @property
    def rank(cls) -> int:
        """The slot that this code runs in."""
        here = _here()
        return 0 if here is None else here.rank

    @property
    def taskNumber(cls) -> int:
        """The number of the task that this code runs in."""
        here = _here()
        return 0 if here is None else here.task.id

    @property
    def host(cls) -> str:
        """The name of the host that this code runs on."""
        here = _here()
        return machine().place[0] if here is None else here.task.host

    @property
    def vmStatus(cls) -> dict[str, Any] | None:
        """Hosts and slots as the spawner knows them, as a copy; None in tasks."""
        return None if _here() is not None else _status(machine())


class MPI(VirtualMachine, metaclass=_Facts):
    """Hosts and slots of an MPI program; its static methods work without an object, too."""

    def __init__(
        self,
        debug: int = 0,
        startupDir: str | None = None,
        translateStartupDir: bool = True,
        mirrorMap: Mapping[str, str] | None = None,
        persistentStorage: bool = False,
    ) -> None:
        super().__init__(debug, startupDir, translateStartupDir, mirrorMap, persistentStorage)
        self._debug("MPI", f"new virtual machine, rank={MPI.rank} on {MPI.host}")

    @staticmethod
    def slots() -> int:
        """How many slots there are, the spawner's own among them."""
        return _spawner().slots

    @staticmethod
    def freeSlots() -> int:
        """How many of them have no task, as far as exits were received."""
        return len(_spawner().free)

    @staticmethod
    def freeSlotsSet() -> set[int]:
        """Their numbers."""
        return _spawner().free

    @staticmethod
    def hostsWithFreeSlots() -> set[MPIHostID]:
        """The hosts that they are on."""
        return {MPIHostID(host.name) for host in _spawner().stations.values() if host.free}

    @staticmethod
    def hosts() -> list[MPIHostID]:
        """All hosts, the spawner's own first."""
        return [MPIHostID(name) for name in _spawner().stations]

    @staticmethod
    def taskID() -> MPITaskID:
        """The id of the task that asks; the spawner is 0:0."""
        return MPITaskID(MPI.rank, MPI.taskNumber)

    @staticmethod
    def hostID(taskID: MPITaskID | None = None) -> MPIHostID:
        """The id of a task's host; of others' tasks only the spawner knows it."""
        if taskID is None or taskID == MPI.taskID():
            return MPIHostID(MPI.host)
        return MPIHostID(_spawner().place[taskID.rank])

    @staticmethod
    def parentTaskID() -> MPITaskID:
        """The spawner's id; for the spawner itself one that is not valid."""
        return MPITaskID(-1, -1) if _here() is None else MPITaskID(0, 0)

    @staticmethod
    def formatSpawnerConfig() -> str:
        """Hosts with their cores, free slots, and slots with tasks."""
        spawner = _spawner()
        return "".join(_host_lines(spawner, name) for name in spawner.stations)

    def setWorkerDebug(self, debug: int = 0) -> None:
        """Set the debug level of what is spawned from now on."""
        self.debug = debug

    def spawnFunction(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        count: int | None = None,
        targetList: Sequence[MPIHostID] | None = None,
        sendBack: bool = True,
    ) -> list[MPITaskID]:
        """See `VirtualMachine.spawnFunction`; hosts with most free slots get tasks first."""
        spawner = _spawner()
        names = None if targetList is None else [str(host) for host in targetList]
        spawned: list[MPITaskID] = []
        while count is None or len(spawned) < count:
            with spawner.taken(names) as slot:
                if slot is None:
                    break
                call = (self, slot, function, tuple(args), dict(kwargs or {}))
                number = spawner.run(slot, _run, *call)
            if number is not None:
                spawned.append(MPITaskID(slot, number))
                if not sendBack:
                    spawner.silent.add(number)
        return spawned

    def checkForIncoming(self, fromDestination: MPITaskID | None = None) -> bool:
        """See `VirtualMachine.checkForIncoming`."""
        return self._mail().holds(fromDestination)

    def receiveMessage(
        self, timeout: float = -1.0, fromDestination: MPITaskID | None = None
    ) -> tuple[Any, ...] | None:
        """See `VirtualMachine.receiveMessage`.

        Raises `ClusterError` if the cluster as a whole is gone: waiting again would not help.
        """
        try:
            received = self._mail().get(None if timeout < 0 else timeout, fromDestination)
        except ClusterError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever unpickling it raises
            self._debug("MPI", f"a message cannot be read: {type(exc).__name__}: {exc}")
            return None
        if received and isinstance(received[1], MsgTaskExit):
            machine().ended(received[0].number)
            self._debug("MPI", f"task {received[0]} has ended")
        return received

    def _mail(self) -> Mailbox:
        here = _here()
        if here is not None:
            return here.mail
        spawner = machine()
        if spawner.mail is None:
            spawner.mail = Mailbox(lambda wait: _fetch(spawner, wait))
        return spawner.mail

    def sendMessage(self, destination: MPITaskID, message: Any) -> bool:
        """See `VirtualMachine.sendMessage`. What is sent to a task that has ended is dropped."""
        here, to = _here(), destination.number or 0
        letter = Letter(MPI.rank, message)
        try:
            if here is not None:
                here.task.send(to, letter)
            else:
                machine().send(to, letter)
        except ClusterError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever pickling it raises
            self._debug("MPI", f"a message cannot be sent: {type(exc).__name__}: {exc}")
            return False
        return True

    def errorIsRaised(self, task: MPITaskID) -> None:
        """See `VirtualMachine.errorIsRaised`."""
        machine().raised.add(task.number or 0)

    def clearLocalStorage(self, timeout: float = -1.0) -> None:
        """See `VirtualMachine.clearLocalStorage`."""
        cluster = _spawner().cluster
        reclaim_leftovers()
        if cluster is None:
            return
        try:
            freed = cluster.clear_local_storage(None if timeout < 0 else timeout)
        except TimeoutError:
            self._debug("VM", f"local storage is not cleared after {timeout:g} s")
            return
        for host, count in freed.items():
            self._debug("VM", f"local storage on {host} is cleared, {count} bytes were freed")

    @staticmethod
    def finalize() -> None:
        """See `VirtualMachine.finalize`. May be called twice."""
        _spawner().finish()


def _run(
    vm: MPI,
    rank: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """What runs in a slot: the function in its environment."""
    me = current_task()
    _running[me.id] = _Here(rank, me, Mailbox(lambda wait: _fetch_in_task(me, wait)))
    vm._debug("MPIWORKER", f"task {MPI.taskID()} begins on {me.host}")
    try:
        with vm.environment():
            return function(*args, **kwargs)
    except Finished:
        return None
    finally:
        vm._debug("MPIWORKER", f"task {MPI.taskID()} ends on {me.host}")
        del _running[me.id]


def _fetch_in_task(me: CurrentTask, wait: float | None) -> tuple[Any, ...] | None:
    received = me.receive(wait)
    if received is None:
        return None
    letter = received.message
    if not isinstance(letter, Letter):  # sent by a program that does not use the dialect
        return MPITaskID(0 if received.source == 0 else -1, received.source), letter
    if isinstance(letter.message, Finish):
        raise Finished
    return MPITaskID(letter.slot, received.source), letter.message


def _fetch(spawner: Machine, wait: float | None) -> tuple[Any, ...] | None:
    if spawner.cluster is None:
        _wait_for_nothing(wait)
        return None
    received = spawner.cluster.receive(wait)
    return None if received is None else _translated(spawner, received)


def _wait_for_nothing(wait: float | None) -> None:
    if wait is None:
        raise ClusterClosed("the virtual machine")
    time.sleep(wait)


def _translated(spawner: Machine, received: Received) -> tuple[Any, ...]:
    """What a cluster's message or event is in the dialect."""
    message = received.message
    sender = MPITaskID(spawner.slot.get(received.source), received.source)
    match message:
        case Letter():
            return MPITaskID(message.slot, received.source), message.message
        case TaskResult():
            return _result(spawner, sender, message) if sender.valid() else ()
        case TaskExit():
            return (sender, MsgTaskExit(sender)) if sender.valid() else ()
        case HostAdded():
            new = spawner.add(message.host)
            return (MPITaskID.bad(), MsgHostAdd([MPIHostID(message.host.name)])) if new else ()
        case HostDeleted():
            spawner.remove(message.host.name)
            return MPITaskID.bad(), MsgHostDelete(MPIHostID(message.host.name))
    return sender, message


def _result(spawner: Machine, sender: MPITaskID, result: TaskResult) -> tuple[Any, ...]:
    number = sender.number or 0
    silent, raised = number in spawner.silent, number in spawner.raised
    spawner.silent.discard(number)
    spawner.raised.discard(number)
    if result.ok:
        return () if silent else (sender, MsgTaskResult(True, result.value))
    if not raised:
        text = "".join(traceback.format_exception(result.value))
        sys.stderr.write(f"task {sender} on {spawner.place[sender.rank]} failed:\n{text}")
    return () if silent else (sender, MsgTaskResult(False, None, result.value))


def _host_lines(spawner: Machine, name: str) -> str:
    station = spawner.stations[name]
    taken = [slot for slot in station.slots if slot not in station.free]
    lines = [f"{name} ncpu={station.cores} free slots: {[*station.free]}\n"]
    lines += [f"\tslot={slot:4d} task={spawner.number[slot]:4d}\n" for slot in taken]
    return "".join(lines)


def _status(spawner: Machine) -> dict[str, Any]:
    slots = {slot for station in spawner.stations.values() for slot in station.slots}
    return {
        "hosts": {
            name: {
                "slots": set(station.slots),
                "freeSlots": set(station.free),
                "ncpu": station.cores,
            }
            for name, station in spawner.stations.items()
        },
        "slots": {
            slot: {"host": spawner.place[slot], "taskNumber": spawner.number.get(slot, -1)}
            for slot in sorted(slots)
        },
        "usedSlots": slots - spawner.free,
        "freeSlots": spawner.free,
        "freeHosts": MPI.hostsWithFreeSlots(),
        "slot2host": dict(spawner.place),
    }


open_under_mpirun()
