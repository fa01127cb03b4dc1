"""The virtual machine on PVM: the program is its spawner; hosts join and leave as in PVM.

The program joins the user's virtual machine if its daemon runs on this host, and otherwise starts
its own when it first needs one; see `use_machine`, and `encamp.compat.pyopus.use_cluster`.

Each function is spawned in a new interpreter, as PVM spawns tasks, unless the storage is persistent
or the virtual machine was created with ``freshInterpreter=False``, which is faster.

Different from PyOPUS on purpose: a task's exception is printed at the spawner and arrives as
``MsgTaskResult`` with ``success`` False. There are never more tasks than slots, and the spawner
occupies none. Only the program's own tasks are listed and killed. Waiting uses no CPU time,
and asking for the state of the machine uses no memory.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

import math
import socket
import time
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any

from encamp.cluster.print_output import show_lines_at_once
from encamp.compat.pyopus.base import PyOpusError
from encamp.compat.pyopus.clustered import (
    ClusteredMachine,
    checked_timeout,
    no_task,
    task_here,
)
from encamp.compat.pyopus.pvm_hosts import host_table_of
from encamp.compat.pyopus.pvm_id_bits import host_of, task_number, task_tid
from encamp.compat.pyopus.pvm_ids import PVMHostID, PVMTaskID
from encamp.compat.pyopus.pvm_status import as_text, status, usable
from encamp.compat.pyopus.pvm_task_output import task_output
from encamp.compat.pyopus.spawner import Spawner, opened, use
from encamp.errors import ClusterError, NoSuchHost

__all__ = ["PVM", "PVMHostID", "PVMTaskID", "use_machine"]

_BEAT = 60.0
"""Seconds that stand for an infinite timeout, to calculate the interval of checks."""


_wanted: dict[str, Any] = {"machine": None}
"""The options of the engine."""


def use_machine(which: str | None = None, **options: Any) -> None:
    """Choose the virtual machine to join when it is first needed.

    ``"running"`` is the one that the user has started, ``"own"`` one that ends with the program;
    None takes the running one if there is one. ``options`` are those of ``Cluster("pvm", …)``,
    such as ``hosts=["alpha", "beta"]``.
    """
    no_task()
    if which not in (None, "running", "own"):
        raise PyOpusError(f"the machine is 'running', 'own' or None, not {which!r}")
    if opened() is not None:
        raise PyOpusError(
            "the program is in a virtual machine already; leave it with PVM.finalize()"
        )
    _wanted.clear()
    _wanted.update(options, machine=which)


def _spawner() -> Spawner:
    """The program's machine; joined or started at the first call."""
    no_task()
    ours = opened()
    if ours is None:
        from encamp.cluster.cluster import Cluster

        ours = Spawner(Cluster("pvm", follow=task_output.take, **_wanted), own=True)
        use(ours)
    return ours


class _Facts(ABCMeta):
    """PyOPUS's attributes of the class; None before the machine is joined."""

    @property
    def tid(cls) -> int | None:
        """The id of the calling task."""
        here, ours = task_here(), opened()
        if here is not None:
            return task_tid(here.place, here.task.id)
        return None if ours is None else host_table_of(ours).own_tid

    @property
    def ptid(cls) -> int | None:
        """The id of the task that spawned it; None in the spawner."""
        here = task_here()
        return None if here is None else here.vm._spawner_tid

    @property
    def dtid(cls) -> int | None:
        """The id of the calling task's host."""
        tid = cls.tid
        return None if tid is None else host_of(tid)

    @property
    def pvmStatus(cls) -> dict[str, Any] | None:
        """A copy of the spawner's hosts and tasks; None in tasks.

        ``hosts`` by their ids: ``speed``, ``arch``, ``name``, ``task_count``, ``ncpu`` (None if it
        never answered), ``responsive``. ``tasks`` by theirs: ``parent``, ``dtid``, ``flags``,
        ``name``, ``pid`` (-1: unknown). ``narch``: how many architectures.
        """
        ours = None if task_here() is not None else opened()
        return None if ours is None else status(ours)


class PVM(ClusteredMachine, metaclass=_Facts):
    """Hosts and slots of a PVM virtual machine.

    With ``debug`` above 1, the output of tasks is shown here. ``freshInterpreter`` is whether
    each function gets a new interpreter; None: unless the storage is persistent.
    """

    subsystem = "PVM"
    task_type = PVMTaskID
    host_type = PVMHostID

    def __init__(
        self,
        debug: int = 0,
        startupDir: str | None = None,
        translateStartupDir: bool = True,
        mirrorMap: Mapping[str, str] | None = None,
        persistentStorage: bool = False,
        freshInterpreter: bool | None = None,
    ) -> None:
        self.freshInterpreter = freshInterpreter
        self._spawner_tid = 0
        super().__init__(debug, startupDir, translateStartupDir, mirrorMap, persistentStorage)
        if task_here() is None:
            task_output.wanted = debug > 1
            if task_output.wanted:
                show_lines_at_once()

    def setSpawn(
        self,
        startupDir: str | None = None,
        translateStartupDir: bool = True,
        mirrorMap: Mapping[str, str] | None = None,
        persistentStorage: bool = False,
    ) -> None:
        """See `VirtualMachine.setSpawn`."""
        if persistentStorage and self.freshInterpreter:
            raise PyOpusError("persistent storage needs a persistent interpreter, not a fresh one")
        super().setSpawn(startupDir, translateStartupDir, mirrorMap, persistentStorage)

    # The machine

    def alive(self) -> bool:
        """Whether the virtual machine answers; it is joined or started at the first call.

        Raises `EngineUnavailable` or `EngineFailed` if PVM cannot be used here.
        """
        if task_here() is not None:
            return True
        if opened() is None and _wanted["machine"] == "running" and not _one_runs():
            return False
        host_table = host_table_of(_spawner())
        try:
            host_table.renew()
        except ClusterError:
            return False
        return not host_table.failed

    def waitForVM(self, timeout: float = -1.0, beatsPerTimeout: int = 50) -> bool:
        """Whether the virtual machine is alive within ``timeout`` seconds; forever if negative.

        Checks ``beatsPerTimeout`` times in that time, or in a minute.
        """
        wait = checked_timeout(timeout)
        if not isinstance(beatsPerTimeout, int) or beatsPerTimeout < 1:
            raise PyOpusError(f"beatsPerTimeout must be 1 or more, not {beatsPerTimeout!r}")
        pause = (_BEAT if wait is None else wait) / beatsPerTimeout
        deadline = math.inf if wait is None else time.monotonic() + wait
        while not self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        return True

    def spawnerBarrier(self, timeout: float = -1.0) -> None:
        """Become the spawner, which knows the hosts, and is informed when they join or leave."""
        self.updateSpawnerInfo(timeout)

    def updateSpawnerInfo(self, timeout: float = -1.0) -> bool:
        """Find the machine's hosts, and which of them answer; False if the machine has ended."""
        wait, host_table = checked_timeout(timeout), host_table_of(_spawner())
        try:
            host_table.renew()
        except ClusterError as exc:
            self._debug("PVM", str(exc))
            return False
        self._set_aside(wait)
        return not host_table.failed

    def updateCoreCount(self, timeout: float = -1.0) -> None:
        """Ask all hosts; those that do not answer in time get no tasks until they are asked again.

        Negative: waits until each host has answered or has left.
        """
        self._set_aside(checked_timeout(timeout))

    def _set_aside(self, wait: float | None) -> None:
        ours = _spawner()
        there = host_table_of(ours).answering(wait)
        for host in list(ours.hosts.values()):
            host.aside = bool(host.slots - {0}) and host.name not in there
            if host.aside:
                self._debug("PVM", f"{host.name} does not answer")

    @staticmethod
    def slots() -> int:
        """The number of slots: the cores of hosts that answer. The spawner has no slot."""
        return sum(len(host.slots - {0}) for host in usable(_spawner()))

    @staticmethod
    def freeSlots() -> int:
        """The number of slots without a task; a task counts until its exit was received."""
        return len(_spawner().free)

    @staticmethod
    def freeSlotsSet() -> set[int]:
        """The numbers of the free slots."""
        return _spawner().free

    @staticmethod
    def hostsWithFreeSlots() -> set[PVMHostID]:
        """The hosts with free slots."""
        return {PVM._host(host.name) for host in usable(_spawner()) if host.free}

    @staticmethod
    def hosts() -> list[PVMHostID]:
        """The hosts that answer, in the order of their ids."""
        return sorted(PVM._host(host.name) for host in usable(_spawner()))

    def orderHosts(self, hostList: Sequence[PVMHostID]) -> list[PVMHostID]:
        """The hosts of a list that answer, the one with the most free slots first."""
        free = {PVM._host(host.name): len(host.free) for host in usable(_spawner())}
        there = [host for host in self._checked_hosts(hostList) if host in free]
        return sorted(there, key=lambda host: -free[host])

    # Tasks

    @staticmethod
    def taskID() -> PVMTaskID:
        """The id of the calling task."""
        if task_here() is None:
            _spawner()
        return PVMTaskID(PVM.tid)

    @staticmethod
    def hostID(task: PVMTaskID | None = None) -> PVMHostID:
        """The id of a task's host, by default of the calling task's."""
        own = PVM.taskID()
        if task is None or task == own:
            return PVMHostID(host_of(own.tid), socket.gethostname())
        if not isinstance(task, PVMTaskID):
            raise PyOpusError(f"a task's id is a PVMTaskID, not {task!r}")
        return PVMHostID(host_of(task.tid)) if task.valid() else PVMHostID.bad()

    @staticmethod
    def parentTaskID() -> PVMTaskID:
        """The spawner's id; an invalid one in the spawner itself."""
        return PVMTaskID(PVM.ptid)

    @staticmethod
    def formatSpawnerConfig() -> str:
        """Hosts with their cores, and the tasks on each."""
        return as_text(status(_spawner()))

    def kill(self, task: PVMTaskID) -> bool:
        """Kill a task; its exit is reported, without a result. False if it is not the program's."""
        ours = _spawner()
        number = self._number(self._checked_task(task))
        return ours.ids.get(number) == task and ours.kill(number)

    def killAll(self) -> None:
        """Kill all tasks that this program has spawned."""
        for task in list(_spawner().ids.values()):
            self.kill(task)

    @staticmethod
    def finalize() -> None:
        """See `VirtualMachine.finalize`. Idempotent; the machine may be joined again."""
        no_task()
        ours = opened()
        if ours is not None:
            try:
                ours.finish()
            finally:
                task_output.end_all()
                use(None if ours.own else ours)

    # For `ClusteredMachine`

    @staticmethod
    def _spawner() -> Spawner:
        return _spawner()

    def _options(self) -> dict[str, Any]:
        self._spawner_tid = host_table_of(_spawner()).own_tid
        fresh = self.freshInterpreter
        return {"fresh": True} if fresh or (fresh is None and not self.persistentStorage) else {}

    @classmethod
    def _id(cls, place: int | None, number: int) -> PVMTaskID:
        if number == 0:
            return PVMTaskID(PVM.tid if task_here() is None else PVM.ptid)
        return PVMTaskID(None if place is None else task_tid(place, number))

    @classmethod
    def _number(cls, task: Any) -> int:
        return 0 if task.tid == PVM.ptid else task_number(task.tid)

    @classmethod
    def _host(cls, name: str) -> PVMHostID:
        return PVMHostID(host_table_of(_spawner()).dtid(name), name)

    @classmethod
    def _names(cls, hosts: Sequence[Any]) -> list[str]:
        """The cluster's names of present hosts. Raises `NoSuchHost` for unknown hosts."""
        ours, host_table = _spawner(), host_table_of(_spawner())
        names = {host: host_table.alias(host.dtid) for host in hosts}
        for host, name in names.items():
            if name is None and host_table.name(host.dtid) is None:
                raise NoSuchHost(str(host), tuple(map(str, cls.hosts())))
        return [name for name in names.values() if name in ours.hosts]

    @classmethod
    def _place(cls, slot: int) -> int:
        ours = _spawner()
        return host_table_of(ours).dtid(ours.host_of[slot])

    @classmethod
    def _spawners_place(cls) -> int:
        return PVM.dtid or 0

    @classmethod
    def _hosts_changed(cls) -> None:
        host_table_of(_spawner()).renew()

    def _exited(self, task: Any) -> None:
        task_output.end(self._number(task))
        super()._exited(task)


def _one_runs() -> bool:
    """Whether the user's virtual machine is running.

    Also True if PVM is missing, so that joining the machine raises the error for it.
    """
    try:
        from encamp.engines.pvm.machine import running
    except ImportError:
        return True
    return running() is not None
