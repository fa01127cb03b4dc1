"""Handling the end of servers: failing their calls, and replacing them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from encamp.cluster.records import TaskRecord
from encamp.errors import EncampError, ServerLost, ServiceEnded, TaskKilled, TaskLost, words_of
from encamp.services.letters import Answers, MemberLost, Refused, ServerGone
from encamp.services.registry.client_letters import ClientLetters
from encamp.services.registry.consoles import Consoles
from encamp.services.registry.questions import statistics_of
from encamp.services.registry.saved_states import SavedStates
from encamp.services.registry.server_record import STARTING, ServerRecord
from encamp.services.registry.service_records import ServiceRecord, ServiceRecords
from encamp.services.registry.starter import Starter
from encamp.wire.pickling import dump, dump_failure, portable_error
from encamp.wire.protocol import SPAWNER

_UNKNOWN = -1
_TWICE = "the second one in this call, which is not repeated any more"


class ServerEndings:
    """Replaces servers that have ended, and informs their clients."""

    def __init__(
        self,
        records: ServiceRecords,
        client_letters: ClientLetters,
        starter: Starter,
        saved_states: SavedStates,
        consoles: Consoles,
    ) -> None:
        self._records, self._client_letters, self._starter = records, client_letters, starter
        self._saved_states, self._consoles = saved_states, consoles

    def server_ended(
        self, service: ServiceRecord, server: ServerRecord, task: TaskRecord, good: bool, value: Any
    ) -> None:
        """Handle the end of a server's task: it is replaced, or lost, or has done its work."""
        self._saved_states.settle(server.number)
        expected = good or service.ended or isinstance(value, TaskKilled)
        died = isinstance(value, TaskLost)
        served = server.state != STARTING
        if not expected and died:
            service.lost += 1
            # the loss of a host is not counted
            service.deaths += value.exit_code is not None or server.overdue
        bound = service.published.restarts * max(1, len(service.pool.servers))
        again = died and service.deaths <= bound and not service.ended
        if again and service.published.at_least_once and served and self._records.usable():
            self._revive(service, server, task, value)
            return
        self._lose(service, server, task, good, value)
        if again:
            saved = self._saved_states.take(server.number)
            if saved is not None:
                service.states.append((server.fixed, saved))
        elif not service.ended:
            service.withdrawn += 1
        self._records.pump.call_soon(lambda: self._after_end(service, value))

    def _after_end(self, service: ServiceRecord, value: Any) -> None:
        self._starter.reconcile()
        if not service.pool.servers and service.over() is None:
            error = value if isinstance(value, BaseException) else None
            why = "all have ended" if error is None else words_of(error)
            self._starter.fail(service, why, error)
        self._client_letters.grant(service)

    def _revive(
        self, service: ServiceRecord, server: ServerRecord, task: TaskRecord, value: TaskLost
    ) -> None:
        """Start a server again, which repeats all calls since its predecessor's last state."""
        mark = server.began or task.mark
        about, progress = mark
        ended = progress % 2  # see `Stopping`; a server that dies after a call has not died of it
        if mark == server.poison and mark != (0, 0) and not ended:
            self._give_up(service, server, (about, progress // 2), value)
        server.poison, server.began = mark, None
        saved = self._saved_states.take(server.number)
        server.given, server.ready = 0, False

        def start() -> None:
            try:
                self._starter.start(service, server, saved)
            except EncampError as exc:
                self._lose(service, server, task, False, exc)

        self._records.pump.call_soon(start)

    def _give_up(
        self, service: ServiceRecord, server: ServerRecord, lost: tuple[int, int], value: TaskLost
    ) -> None:
        """Fail a call that two servers have died in, instead of repeating it."""
        for at, (client, call, _) in enumerate(server.log):
            number, _, _, name, _, _ = call
            if (client, number) == lost:
                del server.log[at]
                facts = service.name, name, server.host, True, value.exit_code, _TWICE
                error = ServerLost(*facts)
                payload = bytes(dump_failure(error)[0])
                letter = Answers(
                    server.number, [(number, False, payload, 0)], [], server.statistics
                )
                self._records.send_letter(client, letter)
                return

    def _lose(
        self, service: ServiceRecord, server: ServerRecord, task: TaskRecord, good: bool, value: Any
    ) -> None:
        """Remove a server that will not be replaced, and inform its clients."""
        about, mark = server.began or task.mark
        unknown = isinstance(value, TaskKilled) or getattr(value, "exit_code", 0) is None
        if server.began is None and unknown:
            about = _UNKNOWN
        error = self._error_of(service, server, task, good, value)
        letter = ServerGone(server.number, about, mark // 2)
        group, holder = server.group, server.holder
        if group and holder in self._records.held:
            self._records.held[holder].discard(server)
        pinned = service.pool.removed(server)
        state = "ended" if isinstance(error, ServiceEnded) else "lost"
        service.former.append(replace(statistics_of(server), state=state))
        self._records.by_server.pop(server.number, None)
        self._records.lost[server.number], self._records.errors[server.number] = letter, error
        self._consoles.ended(server.number)
        payload = dump(portable_error(error))
        for client in server.clients:
            if client == SPAWNER or client in self._records.controller.tasks:
                self._records.send_letter(client, letter, payload)
        for request in pinned:
            self._records.send_letter(request.client, Refused(request.ticket), payload)
        if group:
            for other in service.pool.servers.values():
                if other.group == group:
                    self._records.post(other.address, MemberLost(group))

    def _error_of(
        self, service: ServiceRecord, server: ServerRecord, task: TaskRecord, good: bool, value: Any
    ) -> EncampError:
        """The error for the clients of a server that has ended."""
        if good or service.ended or self._records.controller.closing:
            return ServiceEnded(service.name)
        lost = self._saved_states.since(server.number, server.statistics[0])
        error = ServerLost(service.name, "", task.future.host or "", None, lost=lost)
        if server.overdue:
            error.limit = service.published.call_limit
        elif isinstance(value, TaskLost):
            error.exit_code, error.why = value.exit_code, value.why
        elif isinstance(value, BaseException):
            error.why = words_of(value)
        return error
