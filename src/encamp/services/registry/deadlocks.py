"""Calls that wait for each other in a cycle, found from the reports of who waits for what.

A task reports what it waits for only after a while. The reports are enough to be sure: a waiting
server has answered nothing since its report, which contains what it had answered by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from encamp.services.letters import WaitStarted
from encamp.services.registry.server_record import HELD, STARTING, ServerRecord


@dataclass(frozen=True)
class Waiting:
    """A task's report of what it waits for."""

    task: int
    what: WaitStarted


class Deadlocks:
    """All tasks that have waited for long.

    ``servers_of`` returns the servers of a service, ``server_of`` a server, and ``waits_for``
    whether a task's request for a service is still waiting.
    """

    def __init__(
        self,
        servers_of: Callable[[int], Iterable[ServerRecord]],
        server_of: Callable[[int], ServerRecord | None],
        waits_for: Callable[[int, int], bool],
    ) -> None:
        self._servers_of, self._server_of, self._waits_for = servers_of, server_of, waits_for
        self._waiting: dict[int, Waiting] = {}

    def wait_started(self, task: int, what: WaitStarted) -> bool:
        """Record what a task waits for; returns whether it would wait forever."""
        self._waiting[task] = Waiting(task, what)
        return task in self._blocked()

    def wait_ended(self, task: int, ticket: int | None = None) -> None:
        """Record that a task no longer waits."""
        known = self._waiting.get(task)
        if known is not None and ticket in (None, known.what.ticket):
            del self._waiting[task]

    def _blocked(self) -> set[int]:
        """Tasks that can each continue only after another one of them has."""
        blocked = set(self._waiting)
        while free := [task for task in blocked if self._may_go_on(self._waiting[task], blocked)]:
            blocked.difference_update(free)
        return blocked

    def _may_go_on(self, waiting: Waiting, blocked: set[int]) -> bool:
        what = waiting.what
        if what.server:
            server = self._server_of(what.server)
            if server is None or server.address not in blocked:
                return True
            answered = self._waiting[server.address].what.answered
            return answered.get(waiting.task, 0) >= what.number
        if not self._waits_for(what.service, waiting.task):
            return True  # it has been granted one
        return any(self._may_be_free(server, blocked) for server in self._servers_of(what.service))

    def _may_be_free(self, server: ServerRecord, blocked: set[int]) -> bool:
        if server.state == STARTING:
            return True
        if server.address in blocked:  # its call never ends
            return False
        if server.state != HELD or server.holder not in blocked:
            return True
        return server.lease not in self._waiting[server.holder].what.held
