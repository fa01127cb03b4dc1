"""Which task runs where: queues of waiting tasks, and the free slots of hosts.

This module knows no engine and no process. Queueing a task, taking the next one and finding the
host with the most free slots take the same time however many tasks and hosts there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from encamp.cluster.options import PLAIN, Need
from encamp.cluster.records import WAITING, Place, Record, Station
from encamp.errors import MEMORY, NoSuchHost, NotEnough

HORIZON = 0.02
"""Seconds of work that a slot has ahead of it, so that it need not wait for more."""
_OVERHEAD = 5e-6
"""Seconds that a call costs a slot besides its own time."""
_MOST = 4000
"""Calls that a slot has ahead of it at most."""


Assignment = tuple[Place, list[Record]]


class Scheduler:
    """All waiting tasks, and all hosts."""

    def __init__(self) -> None:
        self.stations: dict[str, Station] = {}
        self.slots = 0
        self.idle = 0
        """Slots that run nothing."""
        self.ahead = 0
        """Tasks that were sent to slots that run another."""
        self.changes = 0
        """How often a slot has come or gone."""
        self.plain: deque[Record] = deque()
        """Tasks that wait, and need nothing but a slot."""
        self.needy: dict[Need, deque[Record]] = {}
        """Those that need more, by what it is."""
        self._buckets: list[dict[Station, None]] = [{}]
        self._top = 0
        self._hungry: dict[Place, None] = {}

    # Hosts

    def add(self, place: Place) -> None:
        """Add a slot."""
        station = place.station
        self.stations[station.name] = station
        station.places.append(place)
        station.free[place] = None
        self.slots += 1
        self.idle += 1
        self.changes += 1
        self._sort(station)

    def remove(self, place: Place) -> list[Record]:
        """Remove a slot; returns the tasks that were sent there."""
        station = place.station
        tasks = list(place.ahead)
        if tasks:
            self._release(station, tasks[0])
        for task in tasks:
            task.left()
        self.ahead -= max(0, len(tasks) - 1)
        place.ahead.clear()
        if not tasks and not place.closed:
            self.idle -= 1
        station.places.remove(place)
        station.free.pop(place, None)
        self._hungry.pop(place, None)
        self.slots -= 1
        self.changes += 1
        self._sort(station)
        if not station.places:
            del self.stations[station.name]
            self._buckets[station.bucket].pop(station, None)
        return tasks

    def _sort(self, station: Station) -> None:
        """Put a host among those with as many free slots."""
        room = station.room()
        if room == station.bucket:
            return
        if station.bucket >= 0:
            self._buckets[station.bucket].pop(station, None)
        while len(self._buckets) <= room:
            self._buckets.append({})
        self._buckets[room][station] = None
        station.bucket = room
        self._top = max(self._top, room)

    def most(self, need: Need) -> Iterator[Station]:
        """Hosts that could meet a need."""
        for station in self.stations.values():
            if (need.on is None or station.name in need.on) and station.can(need):
                yield station

    def check(self, need: Need) -> None:
        """Raise `NoSuchHost` or `NotEnough` if no host can ever meet a need."""
        for name in need.on or ():
            station = self.stations.get(name)
            if station is None or (need.place and station.only(need, station.places) is None):
                raise NoSuchHost(name, tuple(self.stations))
        if any(self.most(need)):
            return
        stations = [
            station
            for station in self.stations.values()
            if need.on is None or station.name in need.on
        ]
        for what, wanted, most in (
            ("cores", need.cores, max(station.cores for station in stations)),
            (MEMORY, need.memory, max(station.memory for station in stations)),
            ("GPUs", need.gpus, max(station.all_gpus for station in stations)),
        ):
            if wanted > most:
                raise NotEnough(what, wanted, most)
        raise NotEnough("host with these cores, memory and GPUs", 1, 0, together=True)

    # Waiting tasks

    def put(self, task: Record) -> None:
        """Queue a task."""
        need = task.options.need
        if need is PLAIN or need == PLAIN:
            self.plain.append(task)
        else:
            self.needy.setdefault(need, deque()).append(task)

    def put_back(self, tasks: Iterable[Record]) -> None:
        """Queue tasks that were given back, before all others."""
        for task in reversed(list(tasks)):
            need = task.options.need
            queue = self.plain if need == PLAIN else self.needy.setdefault(need, deque())
            queue.appendleft(task)

    def drop(self, tasks: Iterable[Record]) -> None:
        """Remove waiting tasks."""
        gone = set(tasks)
        for queue in (self.plain, *self.needy.values()):
            left = [task for task in queue if task not in gone]
            queue.clear()
            queue.extend(left)
        self.needy = {need: queue for need, queue in self.needy.items() if queue}

    def waiting(self) -> Iterator[Record]:
        """The waiting tasks."""
        for queue in (self.plain, *self.needy.values()):
            for task in list(queue):
                if task.state is WAITING:
                    yield task

    @property
    def queued(self) -> int:
        """How many tasks are queued, including cancelled ones that are not yet removed."""
        return len(self.plain) + sum(map(len, self.needy.values()))

    def unmet(self) -> list[Record]:
        """Remove and return the tasks whose needs no host can meet any more."""
        lost: list[Record] = []
        for need in list(self.needy):
            if not any(self.most(need)):
                lost.extend(self.needy.pop(need))
        return lost

    # Assigning

    def assign(self) -> list[Assignment]:
        """Assign waiting tasks to slots, as far as possible."""
        assigned = list(self._assign_needy()) if self.needy else []
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
            place, _ = self._hungry.popitem()
            if place.ahead and (given := self._give(place, queue, PLAIN)):
                assigned.append(given)
        if not queue:
            self._hungry.clear()
        return assigned

    def _assign_needy(self) -> Iterator[Assignment]:
        """Tasks with needs; the oldest that does not fit reserves a host for itself."""
        held = [station for station in self.stations.values() if station.reserved]
        for station in held:
            station.reserved = False
        reserved: set[Station] = set()
        self._drop_cancelled()
        for need in sorted(self.needy, key=lambda need: self.needy[need][0].id):
            queue = self.needy[need]
            while queue and (best := self._best(need, reserved)) is not None:
                place = best.slot_for(need)
                if place is not None and (given := self._give(place, queue, need)):
                    yield given
            if not queue:
                del self.needy[need]
            elif need.alone and (keep := self._nearest(need)) is not None:
                # Tasks that need little take neither memory nor GPUs from it, only slots.
                keep.reserved = keep.lacks_slots_only(need)
                reserved.add(keep)
        for station in {*held, *reserved}:
            self._sort(station)

    def _drop_cancelled(self) -> None:
        for need, queue in list(self.needy.items()):
            while queue and queue[0].state is not WAITING:
                queue.popleft()
            if not queue:
                del self.needy[need]

    def _best(self, need: Need, reserved: set[Station]) -> Station | None:
        found = [s for s in self.most(need) if s not in reserved and s.fits(need)]
        return max(found, key=lambda station: station.room(), default=None)

    def _nearest(self, need: Need) -> Station | None:
        return min(self.most(need), key=lambda station: station.used_cores, default=None)

    def _give(self, place: Place, queue: deque[Record], need: Need) -> Assignment | None:
        """Move tasks from a queue to a slot: as many as it can run in a short time."""
        limit = max(1, len(queue) // (2 * self.slots)) if not need.alone else 1
        tasks: list[Record] = []
        backlog, count = place.backlog, len(place.ahead)
        while queue and len(tasks) < limit and count < _MOST:
            seconds = queue[0].function.timing.seconds
            if count and (seconds < 0 or backlog + seconds > HORIZON):
                break
            task = queue.popleft()
            if task.state is not WAITING:
                continue
            tasks.append(task)
            count += 1
            if seconds < 0:
                backlog += _OVERHEAD
                break
            backlog += seconds + _OVERHEAD
        if not tasks:
            return None
        station = place.station
        if not place.ahead:
            del station.free[place]
            self.idle -= 1
            station.used_cores += need.cores
            station.used_memory += need.memory
            station.wide += need.cores > 1
            if need.gpus:
                tasks[0].devices = tuple(station.gpus[: need.gpus])
                del station.gpus[: need.gpus]
            self.ahead -= 1
            self._sort(station)
        self.ahead += len(tasks)
        place.ahead.extend(tasks)
        place.backlog = backlog
        for task in tasks:
            task.sent(place)
        return place, tasks

    # What has ended

    def ended(self, place: Place, task: Record) -> None:
        """A task that was sent to a slot has ended, or was given back."""
        ahead = place.ahead
        if ahead and ahead[0] is task:
            ahead.popleft()
        else:
            ahead.remove(task)
        task.left()
        if ahead:
            seconds = task.function.timing.seconds
            left = place.backlog - (seconds + _OVERHEAD if seconds > 0 else _OVERHEAD)
            place.backlog = left if left > 0 else 0.0
            self.ahead -= 1
            if left < HORIZON / 2 and not place.closed:
                self._hungry[place] = None
            return
        self._release(place.station, task)
        place.backlog = 0.0
        if not place.closed:
            self._free(place)

    def _release(self, station: Station, task: Record) -> None:
        need = task.options.need
        station.gpus.extend(task.devices)
        task.devices = ()
        station.used_cores = max(0, station.used_cores - need.cores)
        station.used_memory = max(0, station.used_memory - need.memory)
        station.wide -= need.cores > 1

    def _free(self, place: Place) -> None:
        place.station.free[place] = None
        self.idle += 1
        self._hungry.pop(place, None)
        self._sort(place.station)

    def close(self, place: Place) -> None:
        """Send no tasks to a slot until it is opened again."""
        if not place.closed:
            place.closed = True
            if place.station.free.pop(place, 0) is None:
                self.idle -= 1
            self._hungry.pop(place, None)
            self._sort(place.station)

    def open(self, place: Place) -> None:
        """Send tasks to a slot again."""
        if place.closed:
            place.closed = False
            if not place.ahead:
                self._free(place)
            elif place.backlog < HORIZON / 2 and not place.ahead[0].options.need.alone:
                self._hungry[place] = None
