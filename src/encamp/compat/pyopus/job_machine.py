"""The jobs of a dispatch on a cluster: tasks without a fixed slot.

An ordinary task has a slot from the beginning, since its id contains the slot. The id of a job is
not needed, so the cluster may choose its slot, and send short jobs ahead.
"""

# ruff: noqa: N802
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from encamp.cluster.task import SpawnedTask
from encamp.compat.pyopus.base import EndedJob, PyOpusError
from encamp.compat.pyopus.clustered import ClusteredMachine, run_task
from encamp.compat.pyopus.spawner import Spawner, opened
from encamp.executor.mapping import cancel_all
from encamp.slot.current_task import slot_here
from encamp.storage.shared_folders import SharedPath
from encamp.wire.pickling import cannot_travel, dump_small, load_small

__all__ = ["JobMachine"]


class JobMachine(ClusteredMachine):
    """A virtual machine on a cluster that chooses the slots of jobs."""

    def roomForJobs(self, independent: bool) -> int:
        """See `VirtualMachine.roomForJobs`."""
        return self._spawner().room_for_jobs(ahead=independent)

    def startJob(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> SpawnedTask:
        """See `VirtualMachine.startJob`."""
        spawner = self._spawner()
        vm = self._as_it_is(spawner)
        if isinstance(function, FunctionType):
            return spawner.jobs.start(_job_of(function, vm), tuple(args), kwargs)
        return spawner.jobs.start(_run_job, (vm, function, *args), kwargs)

    def endedJobs(self) -> Sequence[EndedJob]:
        """See `VirtualMachine.endedJobs`."""
        spawner = opened()
        if spawner is None or not spawner.jobs.ended:
            return ()
        ended = spawner.jobs.ended
        return [self._ended(ended.popleft()) for _ in range(len(ended))]

    def messageOrJobs(self) -> Any:
        """See `VirtualMachine.messageOrJobs`."""
        received, spawner = self.messageHere(), opened()
        if received != ():
            return received
        if spawner is not None and spawner.jobs.wait():
            return ()
        return self.receiveMessage()

    def takeBackJobs(self, jobs: Sequence[Any]) -> None:
        """See `VirtualMachine.takeBackJobs`."""
        cancel_all(reversed(jobs))

    def _as_it_is(self, spawner: Spawner) -> bytes:
        """The pickle of this machine and its slots; cached until something changes."""
        state = [spawner.where(), *vars(self).items()]
        known = _known.get(self)
        if known is not None and known[0] == state:
            return known[1]
        data = _pickled((self, self._places(spawner)))
        if _FIXED.issuperset(map(type, vars(self).values())):  # others may change in place
            _known[self] = state, data
        return data

    def _places(self, spawner: Spawner) -> dict[tuple[int, int], int]:
        """Agent and slot → the place in ids."""
        return {record.key: self._place(slot) for slot, record in spawner.where().items()}

    def _ended(self, job: SpawnedTask) -> EndedJob:
        host = None if job.host is None else self._host(job.host)
        if job.cancelled():
            return EndedJob(job, None, PyOpusError("the job was taken back"), host)
        error = job.exception()
        return EndedJob(job, None if error else job.result(), error, host)


_FIXED = frozenset({int, bool, str, type(None), SharedPath})
_known: WeakKeyDictionary[JobMachine, tuple[list[Any], bytes]] = WeakKeyDictionary()
"""Machines with their states when they were pickled, and the pickles."""


def _pickled(machine: tuple[Any, ...]) -> bytes:
    data = dump_small(machine)
    if data is None:
        from encamp.wire.by_value import dump_by_value  # rarely needed

        try:
            data = dump_by_value(machine)
        except Exception as exc:
            raise cannot_travel("the virtual machine", exc) from exc
    return data


@lru_cache(maxsize=16)
def _job_of(function: FunctionType, vm: bytes) -> Callable[..., Any]:
    """The function of a job, which a cluster pickles once."""

    def job(*args: Any, **kwargs: Any) -> Any:
        return _run_job(vm, function, *args, **kwargs)

    job.__qualname__ = f"<{function.__qualname__}>"
    return job


def _run_job(vm: bytes, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a job's function in a slot."""
    machine, places = _machine_of(vm)
    here = slot_here()
    assert here is not None  # noqa: S101 - only slots call this
    place = places.get((here[0].agent, here[0].number), -1)
    return run_task(machine, place, function, args, kwargs)


@lru_cache(maxsize=16)
def _machine_of(data: bytes) -> tuple[JobMachine, dict[tuple[int, int], int]]:
    found: tuple[JobMachine, dict[tuple[int, int], int]] = load_small(data)
    return found
