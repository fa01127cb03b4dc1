"""Which client gets which server of a service, in which order.

This module knows no processes and no messages; `encamp.services.registry.client_letters` informs
the clients.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

from encamp.services.registry.server_record import FREE, HELD, STARTING, Request, ServerRecord
from encamp.wire.protocol import SPAWNER


class ServerPool:
    """The servers of a service, and the clients that wait for one.

    Servers are granted in the order of requests, on the host with the fewest acquired servers.
    """

    def __init__(self, leases: Iterator[int], requests: Iterator[int]) -> None:
        self.servers: dict[int, ServerRecord] = {}
        self.free: dict[ServerRecord, None] = {}
        """In the order in which they became free."""
        self.queue: deque[Request] = deque()
        self._leases, self._request_numbers = leases, requests
        self._held: dict[str, int] = {}
        """By host, how many servers are acquired."""

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self.queue) + sum(len(server.pinned) for server in self.servers.values())

    def in_use(self) -> str:
        """Who holds how many servers; empty if all are free."""
        held = [server.holder for server in self.servers.values() if server.state == HELD]
        mine = held.count(SPAWNER)
        parts = [
            (mine, f"this program holds {mine}, which release() gives back"),
            (len(held) - mine, f"tasks hold {len(held) - mine}"),
        ]
        return ", ".join(words for number, words in parts if number)

    def live(self) -> list[ServerRecord]:
        """The servers that can be called, by their numbers."""
        return [server for server in self.servers.values() if server.state != STARTING]

    def ask(self, client: int, ticket: int, count: int, server: int) -> Request:
        """Queue a client's request."""
        request = Request(next(self._request_numbers), client, ticket, count, server)
        if server:
            self.servers[server].pinned.append(request)
        else:
            self.queue.append(request)
        return request

    def forget(self, client: int, ticket: int | None = None) -> None:
        """Withdraw a client's request (None: all of them)."""
        for queue in (self.queue, *(server.pinned for server in self.servers.values())):
            for request in list(queue):
                if request.client == client and ticket in (None, request.ticket):
                    queue.remove(request)
                    request.waits = False
                    for server in request.gathered:
                        self.free[server] = None

    def requests(self) -> list[Request]:
        """All waiting requests."""
        pinned = itertools.chain.from_iterable(server.pinned for server in self.servers.values())
        return [*self.queue, *pinned]

    def moved(self, server: ServerRecord, host: str) -> None:
        """Record that a server has started on a host, perhaps a different one than before."""
        if server.state == HELD:
            self._held[server.host] -= 1
            self._held[host] = self._held.get(host, 0) + 1
        server.host = host

    def opened(self, server: ServerRecord) -> None:
        """Record that a server can be called."""
        server.state = FREE
        self.free[server] = None

    def freed(self, server: ServerRecord) -> None:
        """Record that a server's lease has ended."""
        if server.state == HELD:
            self._held[server.host] -= 1
            server.state, server.lease, server.holder, server.group = FREE, 0, 0, 0
            self.free[server] = None

    def removed(self, server: ServerRecord) -> list[Request]:
        """Remove an ended server. Returns the requests that were for this server only."""
        self.servers.pop(server.number, None)
        self.free.pop(server, None)
        if server.state == HELD:
            self._held[server.host] -= 1
        for request in self.queue:
            if server in request.gathered:
                request.gathered.remove(server)
        lost, server.pinned = list(server.pinned), deque()
        return lost

    def grants(self) -> Iterator[tuple[Request, list[ServerRecord]]]:
        """Grant waiting requests as long as servers are free."""
        while self.free or self._is_gathered():
            pinned = self._pinned()
            head = self.queue[0] if self.queue else None
            if pinned is not None and (head is None or pinned[1].number < head.number):
                server, request = pinned
                server.pinned.popleft()
                yield self._given(request, [server])
            elif head is None:
                return
            elif head.count == 1:
                self.queue.popleft()
                yield self._given(head, [self._least_loaded()])
            elif self._is_gathered():
                self.queue.popleft()
                yield self._given(head, sorted(head.gathered, key=lambda one: one.number))
            else:
                server = self._least_loaded()
                del self.free[server]
                head.gathered.append(server)

    def _is_gathered(self) -> bool:
        """Whether the first request has gathered several servers, as many as it wants.

        A request for all servers is also complete when the last server in use has ended.
        """
        head = self.queue[0] if self.queue else None
        if head is None or not head.gathered:
            return False
        return len(head.gathered) >= (head.count or len(self.servers))

    def _pinned(self) -> tuple[ServerRecord, Request] | None:
        found = [(server, server.pinned[0]) for server in self.free if server.pinned]
        return min(found, key=lambda one: one[1].number, default=None)

    def _least_loaded(self) -> ServerRecord:
        held = self._held
        return min(self.free, key=lambda server: held.get(server.host, 0))

    def _given(
        self, request: Request, servers: Iterable[ServerRecord]
    ) -> tuple[Request, list[ServerRecord]]:
        given = list(servers)
        request.waits = False
        for server in given:
            self.free.pop(server, None)
            self._held[server.host] = self._held.get(server.host, 0) + 1
            server.state, server.holder = HELD, request.client
            server.lease = next(self._leases)
            server.clients.add(request.client)
        return request, given
