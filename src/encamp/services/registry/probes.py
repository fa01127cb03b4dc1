"""Servers that do not answer: each is asked from time to time whether it is alive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from encamp.loop.time_limit_clock import RunningTime

if TYPE_CHECKING:
    from encamp.loop.pump import Pump
    from encamp.services.registry.server_record import ServerRecord

_LOOKS = 8
"""Minimum number of checks of a server within its limit."""
_PERIOD = 0.5
"""Maximum number of seconds between two checks."""


class Probes:
    """Checks that a service's servers are alive; for the thread that drives the pump.

    ``servers`` returns the servers to check, None when there will be none any more. ``ask`` asks a
    server, which answers between two calls or while it waits; then `answered` must be called.
    ``overdue`` is called with a server that has not answered for ``limit`` seconds. Time in which
    this program was stopped does not count, because its servers were usually stopped, too.
    """

    def __init__(
        self,
        pump: Pump,
        limit: float,
        servers: Callable[[], Iterable[ServerRecord] | None],
        ask: Callable[[ServerRecord], None],
        overdue: Callable[[ServerRecord], None],
    ) -> None:
        self._pump, self._limit, self._servers = pump, limit, servers
        self._ask, self._overdue = ask, overdue
        self._period = min(limit / _LOOKS, _PERIOD)
        self._time = RunningTime(2 * self._period)
        self._asked: dict[int, float] = {}
        """By the task of a server, when it was asked the question that it has not answered."""
        self._look_again()

    def _look_again(self) -> None:
        self._pump.call_later(self._period, self._look)

    def _look(self) -> None:
        servers, now = self._servers(), self._time()
        if servers is None:
            return
        for server in list(servers):
            asked = self._asked.get(server.address)
            if asked is None:
                self._asked[server.address] = now
                self._ask(server)
            elif now - asked > self._limit:
                self._overdue(server)
        self._look_again()

    def answered(self, task: int) -> None:
        """Record that a server's task has answered."""
        self._asked.pop(task, None)
