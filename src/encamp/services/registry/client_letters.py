"""Letters of clients about servers, and the answers: the grant, the refusal, or why they wait.

Who gets which server is decided in `encamp.services.registry.choose_server`.
"""

from __future__ import annotations

from functools import partial

from encamp.errors import BadJob, EncampError, NotEnough, ServiceEnded
from encamp.services.letters import Acquire, Granted, LeaseEnded, NewClient, Refused
from encamp.services.registry.server_record import Request, ServerRecord
from encamp.services.registry.service_records import ServiceRecord, ServiceRecords
from encamp.services.registry.waiting_warnings import WaitingWarnings
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump
from encamp.wire.protocol import SPAWNER


class ClientLetters:
    """Handles the requests of clients, and informs clients which servers they get."""

    def __init__(self, records: ServiceRecords) -> None:
        self._records, self._warnings = records, WaitingWarnings(records)

    def acquire(self, sender: int, letter: Acquire, parts: Parts) -> None:
        """Handle the request of a client for servers."""
        service = self._records.services.get(letter.service)
        error: EncampError | None
        if service is None:
            error = ServiceEnded("the service")
        else:
            error = service.over() or self._impossible(service, letter)
        if error is not None or service is None:
            self._records.send_letter(sender, Refused(letter.ticket), dump(error))
            return
        request = service.pool.ask(sender, letter.ticket, letter.count, letter.server)
        self.grant(service)
        if letter.notice and sender == SPAWNER:
            self._warnings.client_waits(service, request)

    def _impossible(self, service: ServiceRecord, letter: Acquire) -> EncampError | None:
        """Why a request can never be met."""
        if letter.server and letter.server not in service.pool.servers:
            known = ", ".join(map(str, service.pool.servers)) or "none"
            why = f"{service.name} has no server {letter.server}; its servers are {known}"
            return self._records.errors.get(letter.server) or BadJob("server", why)
        most = len(service.pool.servers)
        if letter.count <= most:
            return None
        most = max(most, len(self._records.wanted(service)))
        if letter.count > most:
            return NotEnough(f"servers of {service.name}", letter.count, most, together=True)
        return None

    def grant(self, service: ServiceRecord) -> None:
        """Grant requests, as far as servers are free."""
        for request, servers in service.pool.grants():
            if request.client != SPAWNER:
                if request.client not in self._records.controller.tasks:  # it has ended
                    for server in servers:
                        service.pool.freed(server)
                    continue
                self._records.held.setdefault(request.client, set()).update(servers)
            for server in servers:
                server.group = servers[0].lease if request.count != 1 else 0
            leases = [(server.number, server.address, server.lease) for server in servers]
            relayed = service.published.at_least_once
            granted = Granted(request.ticket, leases, relayed, service.methods)
            self._records.send_letter(request.client, granted)

    def _refuse(self, service: ServiceRecord, request: Request, error: EncampError) -> None:
        service.pool.forget(request.client, request.ticket)
        self._records.send_letter(request.client, Refused(request.ticket), dump(error))

    def refuse_too_many(self, service: ServiceRecord) -> None:
        """Refuse requests for more servers than there will be."""
        most = max(len(service.pool.servers), len(self._records.wanted(service)))
        for request in service.pool.requests():
            if request.count > most:
                error = NotEnough(f"servers of {service.name}", request.count, most, together=True)
                self._refuse(service, request, error)
                self._records.pump.call_soon(partial(self.grant, service))

    def lease_ended(self, sender: int, letter: LeaseEnded, parts: Parts) -> None:
        """Take back a released server that has answered all calls of the lease."""
        found = self._records.by_server.get(letter.server)
        if found is not None and found[1].lease == letter.lease:
            self.freed(*found)

    def freed(self, service: ServiceRecord, server: ServerRecord) -> None:
        """End a server's lease."""
        held = self._records.held.get(server.holder)
        if held is not None:
            held.discard(server)
        service.pool.freed(server)
        self.grant(service)

    def new_client(self, sender: int, letter: NewClient, parts: Parts) -> None:
        """Record a client that calls a server that was passed on to it."""
        found = self._records.by_server.get(letter.server)
        if found is not None:
            found[1].clients.add(sender)
        elif letter.server in self._records.errors:
            lost, error = self._records.lost[letter.server], self._records.errors[letter.server]
            self._records.pump.call_soon(
                lambda: self._records.send_letter(sender, lost, dump(error))
            )

    def forget(self, sender: int, ticket: int) -> None:
        """Drop the request of a client, which has withdrawn it."""
        for service in self._records.services.values():
            service.pool.forget(sender, ticket)
            self.grant(service)

    def ended(self, client: int) -> None:
        """Free the servers that an ended task had gathered so far."""
        for service in self._records.services.values():
            if service.pool.waiting:
                service.pool.forget(client)
                self._records.pump.call_soon(partial(self.grant, service))

    def refuse_all(self, service: ServiceRecord, error: EncampError) -> None:
        """Refuse all requests, because no server will be free any more."""
        for request in service.pool.requests():
            self._refuse(service, request, error)
