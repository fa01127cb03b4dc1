"""Decides which task runs where: queues of waiting tasks, and the free slots of hosts.

This module knows no engine and no process. Queueing a task, taking the next one and finding the
host with the most free slots take the same time however many tasks and hosts there are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from encamp.cluster.records import WAITING, HostRecord, SlotRecord, TaskRecord
from encamp.cluster.spawn_options import PLAIN, Need
from encamp.cluster.task import SpawnedTask, usual_seconds
from encamp.errors import MEMORY, NoSuchHost, NotEnough

HORIZON = 0.02
"""Seconds of work that are sent ahead to a slot."""
OVERHEAD = 5e-6
"""Seconds for which a call occupies its slot in addition to the call's own time."""
UNDIVIDED = 0.001
"""Less waiting work than this (in seconds) is not divided between busy slots: they would lose more
time by waiting for it than they would gain."""
MOST_CALLS = 4000
"""Maximum number of calls that are sent ahead to a slot."""

Assignment = tuple[SlotRecord, list[TaskRecord]]


class Scheduler:
    """All waiting tasks, and all hosts."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostRecord] = {}
        self.slots = 0
        self.idle = 0
        """Slots that run nothing."""
        self.ahead = 0
        """Tasks that wait at slots behind others."""
        self.changes = 0
        """How often a slot was added or removed."""
        self.plain: deque[TaskRecord] = deque()
        """Waiting tasks that need only a slot."""
        self.needy: dict[Need, deque[TaskRecord]] = {}
        """Waiting tasks that need more, by their needs."""
        self._buckets: list[dict[HostRecord, None]] = [{}]
        self._top = 0
        self._reserves = False
        """Whether hosts are reserved, perhaps for tasks that were cancelled."""
        self._hungry: dict[SlotRecord, None] = {}

    # Hosts

    def add(self, slot: SlotRecord) -> None:
        """Add a slot."""
        host = slot.host
        self.hosts[host.name] = host
        host.slots.append(slot)
        host.free[slot] = None
        self.slots += 1
        self.idle += 1
        self.changes += 1
        self._sort(host)

    def remove(self, slot: SlotRecord) -> list[TaskRecord]:
        """Remove a slot; returns the tasks that were sent there."""
        host = slot.host
        tasks = list(slot.tasks)
        if tasks:
            self._release(host, tasks[0])
        for task in tasks:
            task.left()
        self.ahead -= max(0, len(tasks) - 1)
        slot.tasks.clear()
        if not tasks and not slot.closed:
            self.idle -= 1
        host.slots.remove(slot)
        host.free.pop(slot, None)
        self._hungry.pop(slot, None)
        self.slots -= 1
        self.changes += 1
        self._sort(host)
        if not host.slots:
            del self.hosts[host.name]
            self._buckets[host.bucket].pop(host, None)
        return tasks

    def _sort(self, host: HostRecord) -> None:
        """Put a host among those with as many free slots."""
        room = host.room()
        if room == host.bucket:
            return
        if host.bucket >= 0:
            self._buckets[host.bucket].pop(host, None)
        while len(self._buckets) <= room:
            self._buckets.append({})
        self._buckets[room][host] = None
        host.bucket = room
        self._top = max(self._top, room)

    def most(self, need: Need) -> Iterator[HostRecord]:
        """Hosts that could meet a need."""
        for host in self.hosts.values():
            if (need.on is None or host.name in need.on) and host.can(need):
                yield host

    def check(self, need: Need) -> None:
        """Raise `NoSuchHost` or `NotEnough` if no host can ever meet a need."""
        for name in need.on or ():
            host = self.hosts.get(name)
            if host is None or (need.slot and host.only(need, host.slots) is None):
                raise NoSuchHost(name, tuple(self.hosts))
        if any(self.most(need)):
            return
        if not self.hosts:
            raise NotEnough("hosts", 1, 0, together=True)
        hosts = [host for host in self.hosts.values() if need.on is None or host.name in need.on]
        for what, wanted, most in (
            ("cores", need.cores, max(host.cores for host in hosts)),
            (MEMORY, need.memory, max(host.memory for host in hosts)),
            ("GPUs", need.gpus, max(host.all_gpus for host in hosts)),
        ):
            if wanted > most:
                raise NotEnough(what, wanted, most)
        raise NotEnough("host with these cores, memory and GPUs", 1, 0, together=True)

    # Waiting tasks

    def put(self, task: TaskRecord) -> None:
        """Queue a task."""
        need = task.options.need
        if need is PLAIN or need == PLAIN:
            self.plain.append(task)
        else:
            self.needy.setdefault(need, deque()).append(task)

    def put_back(self, tasks: Iterable[TaskRecord]) -> None:
        """Queue tasks that were given back, before all others."""
        for task in reversed(list(tasks)):
            need = task.options.need
            queue = self.plain if need == PLAIN else self.needy.setdefault(need, deque())
            queue.appendleft(task)

    def drop(self, tasks: Iterable[TaskRecord]) -> None:
        """Remove waiting tasks."""
        gone = set(tasks)
        for queue in (self.plain, *self.needy.values()):
            left = [task for task in queue if task not in gone]
            queue.clear()
            queue.extend(left)
        self.needy = {need: queue for need, queue in self.needy.items() if queue}

    def waiting(self) -> Iterator[TaskRecord]:
        """The waiting tasks."""
        for queue in (self.plain, *self.needy.values()):
            for task in list(queue):
                if task.state is WAITING:
                    yield task

    @property
    def queued(self) -> int:
        """How many tasks are queued, including cancelled ones that are not yet removed."""
        return len(self.plain) + sum(map(len, self.needy.values()))

    def load(self) -> tuple[dict[int, int], int]:
        """The number of busy slots per agent that has any, and the number of waiting tasks."""
        slots = (slot for host in self.hosts.values() for slot in host.slots)
        busy = Counter(slot.agent for slot in slots if slot.tasks)
        return dict(busy), self.queued + self.ahead

    def unmet(self) -> list[TaskRecord]:
        """Remove and return the tasks whose needs no host can meet any more."""
        lost: list[TaskRecord] = []
        for need in list(self.needy):
            if not any(self.most(need)):
                lost.extend(self.needy.pop(need))
        return lost

    # Assigning

    def assign(self) -> list[Assignment]:
        """Assign waiting tasks to slots, as far as possible."""
        assigned = list(self._assign_needy()) if self.needy or self._reserves else []
        queue = self.plain
        while queue:
            while self._top and not self._buckets[self._top]:
                self._top -= 1
            if not self._top:
                break
            freest = next(iter(self._buckets[self._top]))
            if given := self._give(next(iter(freest.free)), queue, PLAIN):
                assigned.append(given)
        while queue and self._hungry:
            slot, _ = self._hungry.popitem()
            if slot.tasks and (given := self._give(slot, queue, PLAIN)):
                assigned.append(given)
        if not queue:
            self._hungry.clear()
        return assigned

    def _assign_needy(self) -> Iterator[Assignment]:
        """Tasks with needs; the oldest that does not fit reserves a host for itself."""
        held = [host for host in self.hosts.values() if host.reserved]
        for host in held:
            host.reserved = False
        reserved: set[HostRecord] = set()
        self._drop_cancelled()
        for need in sorted(self.needy, key=lambda need: self.needy[need][0].id):
            queue = self.needy[need]
            while queue and (best := self._best(need, reserved)) is not None:
                slot = best.slot_for(need)
                if slot is not None and (given := self._give(slot, queue, need)):
                    yield given
            if not queue:
                del self.needy[need]
            elif need.alone and (keep := self._nearest(need)) is not None:
                # Only its slots are reserved: plain tasks use neither memory nor GPUs.
                keep.reserved = keep.lacks_slots_only(need)
                reserved.add(keep)
        self._reserves = bool(reserved)
        for host in {*held, *reserved}:
            self._sort(host)

    def _drop_cancelled(self) -> None:
        for need, queue in list(self.needy.items()):
            while queue and queue[0].state is not WAITING:
                queue.popleft()
            if not queue:
                del self.needy[need]

    def _best(self, need: Need, reserved: set[HostRecord]) -> HostRecord | None:
        found = [s for s in self.most(need) if s not in reserved and s.fits(need)]
        return max(found, key=lambda host: host.room(), default=None)

    def _nearest(self, need: Need) -> HostRecord | None:
        return min(self.most(need), key=lambda host: host.used_cores, default=None)

    def _give(self, slot: SlotRecord, queue: deque[TaskRecord], need: Need) -> Assignment | None:
        """Move tasks from a queue to a slot: as many as it can run in a short time."""
        limit = max(1, len(queue) // (2 * self.slots)) if not need.alone else 1
        tasks: list[TaskRecord] = []
        backlog, count = slot.backlog, len(slot.tasks)
        undivided = backlog + UNDIVIDED if count else 0.0
        while queue and count < MOST_CALLS and (len(tasks) < limit or backlog < undivided):
            seconds = queue[0].function.timing.seconds
            if count and (seconds < 0 or backlog + seconds > HORIZON):
                break
            task = queue.popleft()
            if task.state is not WAITING:
                continue
            tasks.append(task)
            count += 1
            if seconds < 0:
                backlog += OVERHEAD
                break
            backlog += seconds + OVERHEAD
        if not tasks:
            return None
        host = slot.host
        if not slot.tasks:
            del host.free[slot]
            self.idle -= 1
            host.used_cores += need.cores
            host.used_memory += need.memory
            host.wide += need.cores > 1
            if need.gpus:
                tasks[0].uses(host.gpus[: need.gpus])
                del host.gpus[: need.gpus]
            self.ahead -= 1
            self._sort(host)
        self.ahead += len(tasks)
        slot.tasks.extend(tasks)
        slot.backlog = backlog
        for task in tasks:
            task.sent(slot)
        return slot, tasks

    # Ended tasks

    def ended(self, slot: SlotRecord, task: TaskRecord) -> None:
        """Remove a task from its slot when it has ended, or was given back."""
        ahead = slot.tasks
        if ahead and ahead[0] is task:
            ahead.popleft()
        else:
            ahead.remove(task)
        task.left()
        if ahead:
            seconds = task.function.timing.seconds
            left = slot.backlog - (seconds + OVERHEAD if seconds > 0 else OVERHEAD)
            slot.backlog = left if left > 0 else 0.0
            self.ahead -= 1
            if left < HORIZON / 2 and not slot.closed:
                self._hungry[slot] = None
            return
        self._release(slot.host, task)
        slot.backlog = 0.0
        if not slot.closed:
            self._free(slot)

    def _release(self, host: HostRecord, task: TaskRecord) -> None:
        need = task.options.need
        if task.devices:
            host.gpus.extend(task.devices)
            task.uses(())
        host.used_cores = max(0, host.used_cores - need.cores)
        host.used_memory = max(0, host.used_memory - need.memory)
        host.wide -= need.cores > 1

    def _free(self, slot: SlotRecord) -> None:
        slot.host.free[slot] = None
        self.idle += 1
        self._hungry.pop(slot, None)
        self._sort(slot.host)

    def close(self, slot: SlotRecord) -> None:
        """Send no tasks to a slot until it is opened again."""
        if not slot.closed:
            slot.closed = True
            if slot.host.free.pop(slot, 0) is None:
                self.idle -= 1
            self._hungry.pop(slot, None)
            self._sort(slot.host)

    def open(self, slot: SlotRecord) -> None:
        """Send tasks to a slot again."""
        if slot.closed:
            slot.closed = False
            if not slot.tasks:
                self._free(slot)
            elif slot.backlog < HORIZON / 2 and not slot.tasks[0].options.need.alone:
                self._hungry[slot] = None


def calls_ahead(task: Future[Any], most: int) -> int:
    """How many calls like this one keep a slot busy while the next are being sent.

    At most ``most``; 0 if it is not known how long they take.
    """
    seconds = usual_seconds(task) if isinstance(task, SpawnedTask) else -1.0
    return 0 if seconds < 0 else int(min(HORIZON / max(seconds, 1e-6), most))
