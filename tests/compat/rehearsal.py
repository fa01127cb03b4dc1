"""Stand-ins: a virtual machine and a cluster that do what a test tells them, in this process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from encamp.cluster.events import Host
from encamp.cluster.spawn_options import SpawnOptions
from encamp.compat.pyopus.base import MsgTaskExit, MsgTaskResult, VirtualMachine
from encamp.compat.pyopus.mailbox import Finish
from encamp.compat.pyopus.mpi import MPIHostID, MPITaskID
from encamp.wire.protocol import Received


class RehearsedMachine(VirtualMachine):
    """Has ``slots`` slots on each host; a task runs when the spawner waits or looks for messages.

    A task that raises gives a result without success, as the real one does. ``order`` says which
    of the running tasks is next: 0 the oldest, -1 the newest.
    """

    def __init__(self, hosts: Mapping[str, int], order: int = 0) -> None:
        super().__init__()
        self.free = {MPIHostID(name): count for name, count in hosts.items()}
        self._all = sum(hosts.values()) + 1
        self._order = order
        self._number = 0
        self._places: dict[MPITaskID, MPIHostID] = {}
        self.running: list[tuple[MPITaskID, Callable[[], Any]]] = []
        self._messages: deque[tuple[MPITaskID, Any]] = deque()
        self.most = 0
        self.finalized = False

    def slots(self) -> int:  # type: ignore[override]
        return self._all

    def freeSlots(self) -> int:  # type: ignore[override]
        return sum(self.free.values())

    def hosts(self) -> list[MPIHostID]:  # type: ignore[override]
        return [*self.free]

    def hostsWithFreeSlots(self) -> set[MPIHostID]:  # type: ignore[override]
        return {host for host, free in self.free.items() if free}

    def hostID(self, task: Any = None) -> MPIHostID:  # type: ignore[override]
        return self._places[task]

    def parentTaskID(self) -> MPITaskID:  # type: ignore[override]
        return MPITaskID(-1, -1)

    def spawnFunction(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        count: int | None = None,
        targetList: Sequence[Any] | None = None,
        sendBack: bool = True,
    ) -> list[Any]:
        host = next(host for host in targetList or self.free if self.free[host])
        self.free[host] -= 1
        self._number += 1
        task = MPITaskID(1, self._number)
        self._places[task] = host
        self.running.append((task, lambda: function(*args, **(kwargs or {}))))
        self.most = max(self.most, len(self.running))
        return [task]

    def receiveMessage(self, timeout: float = -1.0, fromDestination: Any = None) -> Any:
        if not self._messages and timeout != 0:
            self._run()
        if not self._messages:
            return ()
        sender, message = self._messages.popleft()
        if isinstance(message, MsgTaskExit):
            self.free[self._places[sender]] += 1
        return sender, message

    def _run(self) -> None:
        task, call = self.running.pop(self._order)
        try:
            result = MsgTaskResult(True, call())
        except Exception as exc:  # noqa: BLE001 - as the real one does
            result = MsgTaskResult(False, None, exc)
        self._messages.extend([(task, result), (task, MsgTaskExit(task))])

    def finalize(self) -> None:  # type: ignore[override]
        self.finalized = True


class RehearsedTask(Future[None]):
    """Ends when it is told that the program does."""

    def __init__(self, number: int, host: str, *, fresh: bool) -> None:
        super().__init__()
        self.id, self.host, self.fresh = number, host, fresh


class RehearsedSlot(NamedTuple):
    """A slot of a host, by its key; see `encamp.cluster.records.SlotRecord`."""

    key: tuple[int, int]


@dataclass
class RehearsedCluster:
    """Notes what it is asked for; what is received is what the test has put into ``coming``.

    An exception in ``coming`` is raised.
    """

    sizes: Sequence[tuple[str, int]]
    coming: deque[Received | Exception] = field(default_factory=deque)
    spawned: list[RehearsedTask] = field(default_factory=list)
    sent: list[tuple[int, Any]] = field(default_factory=list)
    waits: list[float | None] = field(default_factory=list)
    refusal: Exception | None = None
    closed: int = 0
    engine: None = None
    failed: bool = False
    records: dict[str, list[RehearsedSlot]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def slots_of(self, name: str) -> list[RehearsedSlot]:
        """See `ClusterPort.slots_of`."""
        have = self.records.setdefault(name, [])
        count = dict(self.sizes).get(name, 0)
        have[count:] = [RehearsedSlot((0, next(self._numbers))) for _ in range(count - len(have))]
        return [*have]

    @property
    def changes(self) -> object:
        """See `ClusterPort.changes`."""
        return dict(self.sizes)

    @property
    def has_mail(self) -> bool:
        """See `ClusterPort.has_mail`: what is to come is taken by `receive` only."""
        return False

    @property
    def _port(self) -> RehearsedCluster:
        """See `cluster.port_of`."""
        return self

    def hosts(self) -> list[Host]:
        """See `Cluster.hosts`."""
        return [
            Host(name=name, slots=slots, cores=os.cpu_count() or 1, memory=0)
            for name, slots in self.sizes
        ]

    def spawn(self, function: Any, args: Any, kwargs: Any, options: SpawnOptions) -> RehearsedTask:
        """See `ClusterPort.spawn`."""
        if self.refusal is not None:
            raise self.refusal
        assert options.slot in [slot.key for slot in self.slots_of(options.on)]
        task = RehearsedTask(len(self.spawned) + 1, options.on, fresh=options.fresh)
        self.spawned.append(task)
        return task

    def receive(self, timeout: float | None = None) -> Received | None:
        """See `Cluster.receive`; raises AssertionError where a real one would wait for ever."""
        self.waits.append(timeout)
        if not self.coming:
            assert timeout is not None, "nothing will ever come"
            return None
        come = self.coming.popleft()
        if isinstance(come, Exception):
            raise come
        return come

    def send(self, task: int, message: Any) -> None:
        """See `Cluster.send`."""
        self.sent.append((task, message))
        if isinstance(message[2], Finish):
            self.spawned[task - 1].set_result(None)

    def close(self) -> None:
        """See `Cluster.close`."""
        self.closed += 1
