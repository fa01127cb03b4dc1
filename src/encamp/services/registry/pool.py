"""The servers of one service: which there are, who uses them, and who waits for one.

This module knows no processes and no messages; the registry starts servers and informs clients.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from encamp.services.letters import Seen

if TYPE_CHECKING:
    from encamp.cluster.records import TaskRecord
    from encamp.services.letters import Call
    from encamp.wire.frames import Parts

STARTING, FREE, HELD = "starting", "free", "held"


@dataclass(eq=False)
class Request:
    """Of a client: so many servers (0: all), or a certain one."""

    order: int
    client: int
    ticket: int
    count: int
    seat: int
    gathered: list[Seat] = field(default_factory=list)


@dataclass(eq=False)
class Seat:
    """A server as the registry sees it. ``number`` is no other's."""

    number: int
    task: TaskRecord | None = None
    state: str = STARTING
    lease: int = 0
    holder: int = 0
    group: int = 0
    clients: set[int] = field(default_factory=set)
    """Who is told if it is lost."""
    pinned: deque[Request] = field(default_factory=deque)
    seen: Seen = (0, 0, 0.0, 0.0)
    began: tuple[int, int] | None = None
    """What it said last of the call that it runs, when it was asked to stop."""
    host: str = ""
    fixed: str = ""
    """The only host that it may be on."""
    log: deque[tuple[int, Call, Parts]] = field(default_factory=deque)
    """Calls that its successor would have to run again, where that is wanted."""
    ready: bool = False
    """Whether its task can be sent calls."""
    given: int = 0
    """How many calls of the log its task was sent."""
    poison: tuple[int, int] = (0, 0)
    """The call that its predecessor has died of."""
    overdue: bool = False
    """Whether its task was ended since it had answered nothing for too long."""

    @property
    def address(self) -> int:
        """The task that it is."""
        return 0 if self.task is None else self.task.id


class Pool:
    """Least loaded first; who has asked first is first."""

    def __init__(self, leases: Iterator[int], requests: Iterator[int]) -> None:
        self.seats: dict[int, Seat] = {}
        self.free: dict[Seat, None] = {}
        """In the order in which they became so."""
        self.queue: deque[Request] = deque()
        self._leases, self._orders = leases, requests
        self._held: dict[str, int] = {}
        """By hosts, how many servers are held."""

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self.queue) + sum(len(seat.pinned) for seat in self.seats.values())

    def live(self) -> list[Seat]:
        """The servers that can be called, by their numbers."""
        return [seat for seat in self.seats.values() if seat.state != STARTING]

    def ask(self, client: int, ticket: int, count: int, seat: int) -> Request:
        """Let a client wait."""
        request = Request(next(self._orders), client, ticket, count, seat)
        if seat:
            self.seats[seat].pinned.append(request)
        else:
            self.queue.append(request)
        return request

    def forget(self, client: int, ticket: int | None = None) -> None:
        """Let a client's request (None: all of them) go."""
        for queue in (self.queue, *(seat.pinned for seat in self.seats.values())):
            for request in list(queue):
                if request.client == client and ticket in (None, request.ticket):
                    queue.remove(request)
                    for seat in request.gathered:
                        self.free[seat] = None

    def requests(self) -> list[Request]:
        """All that wait."""
        pinned = itertools.chain.from_iterable(seat.pinned for seat in self.seats.values())
        return [*self.queue, *pinned]

    def opened(self, seat: Seat) -> None:
        """A server can be called."""
        seat.state = FREE
        self.free[seat] = None

    def freed(self, seat: Seat) -> None:
        """A server's lease has ended."""
        if seat.state == HELD:
            self._held[seat.host] -= 1
            seat.state, seat.lease, seat.holder, seat.group = FREE, 0, 0, 0
            self.free[seat] = None

    def removed(self, seat: Seat) -> list[Request]:
        """A server is gone; requests for it and no other."""
        self.seats.pop(seat.number, None)
        self.free.pop(seat, None)
        if seat.state == HELD:
            self._held[seat.host] -= 1
        for request in self.queue:
            if seat in request.gathered:
                request.gathered.remove(seat)
        lost, seat.pinned = list(seat.pinned), deque()
        return lost

    def grants(self) -> Iterator[tuple[Request, list[Seat]]]:
        """Give out what is free, as far as there is anybody to give it to."""
        while self.free:
            pinned = self._pinned()
            head = self.queue[0] if self.queue else None
            if pinned is not None and (head is None or pinned[1].order < head.order):
                seat, request = pinned
                seat.pinned.popleft()
                yield self._given(request, [seat])
            elif head is None:
                return
            elif head.count == 1:
                self.queue.popleft()
                yield self._given(head, [self._least_loaded()])
            else:
                seat = self._least_loaded()
                del self.free[seat]
                head.gathered.append(seat)
                if len(head.gathered) >= (head.count or len(self.seats)):
                    self.queue.popleft()
                    yield self._given(head, sorted(head.gathered, key=lambda one: one.number))

    def _pinned(self) -> tuple[Seat, Request] | None:
        found = [(seat, seat.pinned[0]) for seat in self.free if seat.pinned]
        return min(found, key=lambda one: one[1].order, default=None)

    def _least_loaded(self) -> Seat:
        held = self._held
        return min(self.free, key=lambda seat: held.get(seat.host, 0))

    def _given(self, request: Request, seats: Iterable[Seat]) -> tuple[Request, list[Seat]]:
        given = list(seats)
        for seat in given:
            self.free.pop(seat, None)
            self._held[seat.host] = self._held.get(seat.host, 0) + 1
            seat.state, seat.holder = HELD, request.client
            seat.lease = next(self._leases)
            seat.clients.add(request.client)
        return request, given
