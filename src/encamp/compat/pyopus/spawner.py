"""The spawner: the cluster that the virtual machines of this process use, and its occupied slots.

As in PyOPUS, a slot is occupied from the spawn of its task until the spawner has received the
message about the task's end, not only until that end. A spawned task therefore always has a free
slot, and no task waits.
"""

from __future__ import annotations

import atexit
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from encamp import cores_and_memory
from encamp.cluster.cluster import port_of
from encamp.cluster.print_output import show, show_lines_at_once
from encamp.cluster.spawn_options import SpawnOptions
from encamp.compat.pyopus.jobs_sent_ahead import JobsSentAhead
from encamp.compat.pyopus.mailbox import Finish, Mailbox, with_sender
from encamp.errors import ClusterClosed, EncampError, NoSuchHost, TaskKilled
from encamp.executor.mapping import cancel_all
from encamp.slot.current_task import in_a_call

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster
    from encamp.cluster.events import Host
    from encamp.cluster.records import SlotRecord
    from encamp.cluster.task import SpawnedTask


@dataclass(eq=False)
class SpawnerHost:
    """A host: its slots, and which of them are free."""

    name: str
    cores: int
    slots: set[int] = field(default_factory=set)
    free: set[int] = field(default_factory=set)
    aside: bool = False
    """Whether it did not answer in time, so that it gets no tasks."""


class Spawner:
    """The hosts and slots for tasks; slot 0 is the spawner's own.

    Without a cluster there is no other slot.
    """

    def __init__(self, cluster: Cluster | None = None, *, own: bool = False) -> None:
        self.cluster, self.own = cluster, own
        self.port = None if cluster is None else port_of(cluster)
        here = socket.gethostname()
        self.hosts = {here: SpawnerHost(here, cores_and_memory.cores(), {0})}
        self.host_of: dict[int, str] = {0: here}
        """Slot → host's name, including hosts that have left."""
        self.number = {0: 0}
        """Slot → number of the task in it."""
        self.slot: dict[int, int] = {}
        """Number of a task → its slot, until its exit was received."""
        self.ids: dict[int, Any] = {}
        """Number of a task → its id in PyOPUS's form, until then."""
        self._tasks: dict[int, SpawnedTask] = {}
        self.silent: set[int] = set()
        """Numbers of tasks whose results are not wanted."""
        self.titles: dict[int, str] = {}
        """Number of a task → the name of its function, until then."""
        self.mail: Mailbox | None = None
        self.host_table: Any = None
        """A virtual machine's other facts about the hosts."""
        self.raised: set[int] = set()
        """Numbers of tasks whose errors are raised elsewhere, so that they are not printed."""
        self.killed: set[int] = set()
        """Numbers of tasks that the program itself has killed."""
        self.jobs = JobsSentAhead(self.port)
        self._known: set[int] = set()
        """Numbers of tasks whose results have arrived, until their exits have."""
        self._live: dict[int, SlotRecord] = {}
        """Slot → the cluster's record of it."""
        self._next = 1
        self._looked = -1
        """`ClusterPort.changes` at the last check of the slots."""
        self._plain: dict[int, SpawnOptions] = {}
        """Slot → options to spawn there without special options, so that they are checked once."""
        for host in cluster.hosts() if cluster is not None else ():
            self.add(host)
        if cluster is not None:
            atexit.register(self._report_errors)  # runs before the cluster is closed

    def add(self, host: Host) -> bool:
        """Record a host's slots; False if they are known already."""
        if any(self.host_of[slot] == host.name for slot in self._live):
            return False
        self._match(self.hosts.setdefault(host.name, SpawnerHost(host.name, host.cores)))
        return True

    @property
    def nothing_here(self) -> bool:
        """Whether no message for the program was read."""
        port, mail = self.port, self.mail
        return port is not None and not port.has_mail and mail is not None and mail.empty

    def look(self) -> None:
        """Record slots that hosts have gained, or have lost with one of their agents.

        Hosts without slots here are added only by their message.
        """
        changes = 0 if self.port is None else self.port.changes
        if changes == self._looked:
            return
        self._looked = changes
        for host in self.hosts.values():
            if self._of(host):
                self._match(host)

    def _match(self, host: SpawnerHost) -> None:
        there = [] if self.port is None else self.port.slots_of(host.name)
        known = {self._live[slot] for slot in self._of(host)}
        if not there or known == {*there}:  # a lost host's message will arrive later
            return
        gone = known.difference(there)
        self._forget(host, [slot for slot in self._of(host) if self._live[slot] in gone])
        for record in (record for record in there if record not in known):
            slot, self._next = self._next, self._next + 1
            self.host_of[slot] = host.name
            self._live[slot] = record
            host.slots.add(slot)
            host.free.add(slot)

    def _of(self, host: SpawnerHost) -> list[int]:
        return [slot for slot in host.slots if slot in self._live]

    def _forget(self, host: SpawnerHost, slots: Sequence[int]) -> None:
        for slot in slots:
            del self._live[slot]
            self._plain.pop(slot, None)
        host.slots.difference_update(slots)
        host.free.difference_update(slots)

    def remove(self, name: str) -> None:
        """Forget a host's slots, including those with tasks."""
        host = self.hosts.get(name)
        if host is not None:
            self._forget(host, self._of(host))
            if not host.slots:
                del self.hosts[name]

    @property
    def slots(self) -> int:
        """The number of slots, including the spawner's own."""
        return sum(len(host.slots) for host in self._used())

    @property
    def free(self) -> set[int]:
        """The free slots."""
        return set().union(*map(self.free_of, self._used()))

    def room_for_jobs(self, *, ahead: bool) -> int:
        """How many more jobs can be started; with ``ahead``, short ones also wait at the slots."""
        return self.jobs.room(sum(len(host.free) for host in self._used()), ahead=ahead)

    def free_of(self, host: SpawnerHost) -> set[int]:
        """The free slots of a host."""
        return host.free - self.jobs_in.keys() if self.jobs.running else host.free

    @property
    def jobs_in(self) -> dict[int, int]:
        """Slot → number of the job that it runs; waiting jobs are assigned to free slots."""
        return self.jobs.in_slots(self._live, (n for one in self._used() for n in one.free))

    def where(self) -> Mapping[int, SlotRecord]:
        """Slot → the cluster's record of it."""
        return self._live.copy()

    def _used(self) -> Iterator[SpawnerHost]:
        return (host for host in self.hosts.values() if not host.aside)

    def take(self, names: Sequence[str] | None) -> int | None:
        """Take a free slot (of these hosts), from the host with the most; None if there is none.

        The slots of a host are taken in PyOPUS's order, which its scripts print.
        """
        wanted = self._used() if names is None else map(self._host, names)
        usable = (host for host in wanted if not host.aside)
        most = max(usable, key=lambda host: len(self.free_of(host)), default=None)
        free = set() if most is None else self.free_of(most)
        if most is None or not free:
            return None
        if names is None and free is most.free:
            return most.free.pop()
        slot = [*free][-1]
        most.free.discard(slot)
        return slot

    def _host(self, name: str) -> SpawnerHost:
        if name not in self.hosts:
            raise NoSuchHost(name, tuple(self.hosts))
        return self.hosts[name]

    @contextmanager
    def taken(self, names: Sequence[str] | None) -> Iterator[int | None]:
        """`take`, for a block; the slot is free again if the block raises an exception."""
        slot = self.take(names)
        try:
            yield slot
        except BaseException:
            if slot is not None:
                self._free(slot)
            raise

    def run(self, slot: int, function: Any, *args: Any, **options: Any) -> int | None:
        """Start a function in a slot that was taken; returns the number of its task.

        ``options`` are those of `Cluster.spawn`. None if the host has left in the meantime.
        """
        if self.port is None:
            raise ClusterClosed("the virtual machine")
        try:
            task = self.port.spawn(function, args, {}, self._how(slot, options))
        except NoSuchHost:
            self.remove(self.host_of[slot])
            return None
        self.number[slot] = task.id
        self.slot[task.id] = slot
        self._tasks[task.id] = task
        return task.id

    def _how(self, slot: int, options: Mapping[str, Any]) -> SpawnOptions:
        """Options to spawn in a slot; the same object each time without special options."""
        known = self._plain.get(slot)
        if known is None or options:
            where: dict[str, Any] = {"on": self.host_of[slot], "slot": self._live[slot].key}
            known = SpawnOptions(notify=True, **where, **options)
            if not options:
                self._plain[slot] = known
        return known

    def send(self, number: int, message: object) -> None:
        """Send to a task that has not ended."""
        if self.cluster is not None and (number in self.slot or number in self.jobs.running):
            self.cluster.send(number, message)

    def kill(self, number: int) -> bool:
        """Kill a task; False if it is unknown, or its exit was received."""
        task = self._tasks.get(number)
        if task is None:
            return False
        self.killed.add(number)
        task.kill()
        return True

    def ended(self, number: int) -> None:
        """Free the slot of a task after the message about its exit was received."""
        slot = self.slot.pop(number, None)
        for known in (self._tasks, self.ids, self.titles):
            known.pop(number, None)
        self.killed.discard(number)
        self._known.discard(number)
        if slot is not None and self.number.pop(slot, None) == number:
            self._free(slot)

    def _free(self, slot: int) -> None:
        if slot in self._live:
            self.hosts[self.host_of[slot]].free.add(slot)

    def error_of(self, number: int, error: BaseException | None) -> BaseException | None:
        """The error of a task's result; None if the task was killed on purpose.

        Prints the error, unless it is raised elsewhere (`raised`).
        """
        raised = number in self.raised
        self.raised.discard(number)
        self._known.add(number)
        if number in self.killed and isinstance(error, TaskKilled | CancelledError):
            return None
        if error is not None and not raised:
            self._report_error(number, error)
        return error

    def _report_error(self, number: int, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        host = self.host_of[self.slot[number]]
        sys.stderr.write(f"task {self.ids[number]} on {host} failed:\n{text}")

    def _report_errors(self) -> None:
        """Print the errors of tasks whose results were not received."""
        for number, task in self._tasks.items():
            if task.done() and not task.cancelled() and number not in self._known:
                self.raised.discard(number)
                self.error_of(number, task.exception())

    def finish(self) -> None:
        """Tell tasks that the program ends, wait for them, and close the spawner's own cluster."""
        cluster, self.cluster, self.port = self.cluster, None, None
        if cluster is None:
            return
        cancel_all(reversed(self.jobs.running.values()))
        tasks = {**self._tasks, **self.jobs.running}
        for number in tasks:
            with suppress(EncampError):
                cluster.send(number, with_sender(0, Finish()))
        wait(tasks.values())
        self._report_errors()
        atexit.unregister(self._report_errors)
        if self.own:
            cluster.close()


_ours: Spawner | None = None


def spawner_here() -> Spawner:
    """The spawner of this process, new if there is none."""
    global _ours
    if _ours is None:
        _ours = Spawner()
    _ours.look()
    return _ours


def opened() -> Spawner | None:
    """The spawner of this process, None if there is none."""
    return _ours


def use(new: Spawner | None) -> None:
    """Set the spawner of this process; None for none."""
    global _ours
    _ours = new


def use_cluster(cluster: Cluster | None) -> None:
    """Let the virtual machines of this process use an open cluster; None for none.

    This is for programs that are not started by mpirun, and for engines that PyOPUS does not have.
    The virtual machines do not show the cluster's other tasks. ``finalize()`` does not close the
    cluster.
    """
    use(Spawner(cluster))


def open_under_mpirun() -> None:
    """Under ``mpirun -n N script.py`` open the cluster of the other ranks.

    All ranks must call this. Only rank 0 returns; the others are its hosts until it is closed.
    """
    if _ours is not None or in_a_call():
        return
    from encamp.engines.mpi.engine import launched, open_on_one_host

    if not launched():
        return
    from encamp.cluster.cluster import Cluster

    show_lines_at_once()
    use(Spawner(Cluster(open_on_one_host(), follow=_print), own=True))


def _print(_task: int, text: str) -> None:
    """Print the output of tasks where the spawner prints, as mpirun does."""
    show(text)
