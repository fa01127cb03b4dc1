"""Calls that wait for each other in a cycle, found from the reports of who waits for what.

A task reports what it waits for only after a while. The reports are enough to be sure: a waiting
server has answered nothing since its report, which says what it had answered by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from encamp.services.letters import Waits
from encamp.services.registry.pool import HELD, STARTING, Seat


@dataclass(frozen=True)
class Waiting:
    """A task that waits, and for what."""

    task: int
    what: Waits


class Circles:
    """All tasks that wait for long. ``seats_of`` gives a service's servers, ``seat_of`` one."""

    def __init__(
        self,
        seats_of: Callable[[int], Iterable[Seat]],
        seat_of: Callable[[int], Seat | None],
        waits_for: Callable[[int, int], bool],
    ) -> None:
        self._seats_of, self._seat_of, self._waits_for = seats_of, seat_of, waits_for
        self._waiting: dict[int, Waiting] = {}

    def waits(self, task: int, what: Waits) -> bool:
        """A task waits; whether it would for ever."""
        self._waiting[task] = Waiting(task, what)
        return task in self._blocked()

    def waits_no_more(self, task: int, ticket: int | None = None) -> None:
        """It has what it waited for, or has given up."""
        known = self._waiting.get(task)
        if known is not None and ticket in (None, known.what.ticket):
            del self._waiting[task]

    def _blocked(self) -> set[int]:
        """Those of which none can go on before another one of them does."""
        blocked = set(self._waiting)
        while free := [task for task in blocked if self._may_go_on(self._waiting[task], blocked)]:
            blocked.difference_update(free)
        return blocked

    def _may_go_on(self, waiting: Waiting, blocked: set[int]) -> bool:
        what = waiting.what
        if what.seat:
            seat = self._seat_of(what.seat)
            if seat is None or seat.address not in blocked:
                return True
            answered = self._waiting[seat.address].what.answered
            return answered.get(waiting.task, 0) >= what.number
        if not self._waits_for(what.service, waiting.task):
            return True  # it has been granted one
        return any(self._may_be_free(seat, blocked) for seat in self._seats_of(what.service))

    def _may_be_free(self, seat: Seat, blocked: set[int]) -> bool:
        if seat.state == STARTING:
            return True
        if seat.address in blocked:  # its call goes on for ever
            return False
        if seat.state != HELD or seat.holder not in blocked:
            return True
        return seat.lease not in self._waiting[seat.holder].what.held
