"""The virtual machine on MPI: ``mpirun -n N python script.py`` runs the script on rank 0 only.

The other ranks become slots when this module is imported. Without mpirun there are no slots, as in
PyOPUS, unless the program has called `encamp.compat.pyopus.use_cluster`.

Different from PyOPUS on purpose: a task's exception is printed at the spawner and arrives as
``MsgTaskResult`` with ``success`` False, and the program continues, even when a task's process
dies. Tasks run in their own processes on their rank's host and do not take part in MPI. Waiting
uses no CPU time. ``finalize()`` may be called while messages are in transit.
"""

# ruff: noqa: N802, N803
from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any

from encamp.compat.pyopus.base import HostID, TaskID
from encamp.compat.pyopus.clustered import no_task, task_here
from encamp.compat.pyopus.job_machine import JobMachine
from encamp.compat.pyopus.mpi_status import as_text, status
from encamp.compat.pyopus.spawner import Spawner, open_under_mpirun, spawner_here

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


def _spawner() -> Spawner:
    no_task()
    return spawner_here()


class _Facts(ABCMeta):
    """PyOPUS's attributes of the class."""

    @property
    def rank(cls) -> int:
        """The slot of the calling task."""
        here = task_here()
        return 0 if here is None else here.place

    @property
    def taskNumber(cls) -> int:
        """The number of the calling task."""
        here = task_here()
        return 0 if here is None else here.task.id

    @property
    def host(cls) -> str:
        """The name of the calling task's host."""
        here = task_here()
        return spawner_here().host_of[0] if here is None else here.task.host

    @property
    def vmStatus(cls) -> dict[str, Any] | None:
        """A copy of the spawner's hosts and slots; None in tasks."""
        return None if task_here() else status(spawner_here(), MPI.hostsWithFreeSlots())


class MPI(JobMachine, metaclass=_Facts):
    """Hosts and slots of an MPI program; its static methods work without an object, too."""

    subsystem = "MPI"
    task_type = MPITaskID
    host_type = MPIHostID

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
        """The number of slots, including the spawner's own."""
        return _spawner().slots

    @staticmethod
    def freeSlots() -> int:
        """The number of slots without a task; a task counts until its exit was received."""
        return len(_spawner().free)

    @staticmethod
    def freeSlotsSet() -> set[int]:
        """The numbers of the free slots."""
        return _spawner().free

    @staticmethod
    def hostsWithFreeSlots() -> set[MPIHostID]:
        """The hosts with free slots."""
        spawner = _spawner()
        hosts = spawner.hosts.values()
        return {MPIHostID(host.name) for host in hosts if spawner.free_of(host)}

    @staticmethod
    def hosts() -> list[MPIHostID]:
        """All hosts, the spawner's own first."""
        return [MPIHostID(name) for name in _spawner().hosts]

    @staticmethod
    def taskID() -> MPITaskID:
        """The id of the calling task; the spawner's is 0:0."""
        return MPITaskID(MPI.rank, MPI.taskNumber)

    @staticmethod
    def hostID(taskID: MPITaskID | None = None) -> MPIHostID:
        """The id of a task's host; only the spawner knows those of other tasks."""
        if taskID is None or taskID == MPI.taskID():
            return MPIHostID(MPI.host)
        return MPIHostID(_spawner().host_of[taskID.rank])

    @staticmethod
    def parentTaskID() -> MPITaskID:
        """The spawner's id; an invalid one in the spawner itself."""
        return MPITaskID(-1, -1) if task_here() is None else MPITaskID(0, 0)

    @staticmethod
    def formatSpawnerConfig() -> str:
        """Hosts with their cores, free slots, and slots with tasks."""
        return as_text(_spawner())

    @staticmethod
    def finalize() -> None:
        """See `VirtualMachine.finalize`. Idempotent."""
        _spawner().finish()

    # For `ClusteredMachine`

    @staticmethod
    def _spawner() -> Spawner:
        return _spawner()

    @classmethod
    def _id(cls, place: int | None, number: int) -> MPITaskID:
        return MPITaskID(place, number)

    @classmethod
    def _number(cls, task: Any) -> int:
        return task.number or 0

    @classmethod
    def _host(cls, name: str) -> MPIHostID:
        return MPIHostID(name)

    @classmethod
    def _names(cls, hosts: Sequence[Any]) -> list[str]:
        return [str(host) for host in hosts]

    @classmethod
    def _place(cls, slot: int) -> int:
        return slot

    @classmethod
    def _spawners_place(cls) -> int:
        return 0


open_under_mpirun()
