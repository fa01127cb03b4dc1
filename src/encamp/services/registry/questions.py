"""Questions about services: whether they are ready, and their statistics."""

from __future__ import annotations

from typing import Any

from encamp.errors import NotEnough
from encamp.service_statistics import ServerStatistics, ServiceStatistics
from encamp.services.letters import Inquiry, Letter, Refused, Reply
from encamp.services.registry.server_record import ServerRecord
from encamp.services.registry.service_records import ServiceRecord, ServiceRecords
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump, portable_error


class Questions:
    """Answers questions about services, at once or when enough servers are ready."""

    def __init__(self, records: ServiceRecords) -> None:
        self._records = records
        self._waiters: list[tuple[int, int, ServiceRecord, int]] = []
        """Client, ticket, service, and how many servers are to be ready."""

    def answer(self, service: ServiceRecord, sender: int, letter: Inquiry, arguments: Any) -> None:
        """Answer a question; ``ready`` is answered when that many servers are."""
        if letter.what == "ready":
            self._waiters.append((sender, letter.ticket, service, *arguments))
            self.answer_waiters()
            return
        answer: Any = None
        if letter.what == "statistics":
            answer = self.statistics(service)
        elif letter.what == "servers":
            answer = [server.number for server in service.pool.servers.values()]
        self._records.send_letter(sender, Reply(letter.ticket), dump(answer))

    def forget(self, sender: int, ticket: int) -> None:
        """Drop the question of a client, which has withdrawn it."""
        waiters = self._waiters
        self._waiters = [one for one in waiters if one[:2] != (sender, ticket)]

    def answer_waiters(self) -> None:
        """Answer clients that wait for servers, if there are enough, or never will be."""
        left = []
        replies: list[tuple[int, Letter, Parts]] = []
        for client, ticket, service, number in self._waiters:
            over = service.over()
            live = len(service.pool.live())
            most = max(len(service.pool.servers), len(self._records.wanted(service)))
            if over is None and number > most:
                over = NotEnough(f"servers of {service.name}", number, most, together=True)
            if over is not None:
                replies.append((client, Refused(ticket), dump(portable_error(over))))
            elif live >= (number or most):
                replies.append((client, Reply(ticket), dump(live)))
            else:
                left.append((client, ticket, service, number))
        self._waiters = left
        for client, letter, payload in replies:
            self._records.send_letter(client, letter, payload)

    def statistics(self, service: ServiceRecord) -> ServiceStatistics:
        """The statistics of a service."""
        servers = tuple(statistics_of(server) for server in service.pool.servers.values())
        wanted = 0 if service.over() is not None else len(self._records.wanted(service))
        queue, former = service.pool.waiting, tuple(service.former)
        return ServiceStatistics(service.name, queue, wanted, service.lost, servers, former)


def statistics_of(server: ServerRecord) -> ServerStatistics:
    """The statistics of a server, as of its last report."""
    task, state = server.task, server.state
    if task is not None and task.slot is None and not server.ready:
        state = "waits for a slot"
    slot = None if task is None else task.future.slot
    return ServerStatistics(server.number, server.host, slot, state, *server.statistics)
