"""Starting the servers of services, and ending them."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace
from functools import partial

from encamp.cluster.records import WAITING, Cause
from encamp.errors import EncampError, ServiceEnded, ServiceFailed, UnsupportedByEngine, words_of
from encamp.services.letters import END, Probe
from encamp.services.registry.choose_server import ServerPool
from encamp.services.registry.client_letters import ClientLetters
from encamp.services.registry.consoles import Consoles
from encamp.services.registry.probes import Probes
from encamp.services.registry.questions import Questions
from encamp.services.registry.saved_states import SavedState, SavedStates
from encamp.services.registry.server_record import ServerRecord
from encamp.services.registry.service_records import PublishedService, ServiceRecord, ServiceRecords
from encamp.services.registry.waiting_warnings import WaitingWarnings
from encamp.services.server import ServerSettings, serve
from encamp.wire.pickling import portable_error


class Starter:
    """Starts as many servers as each service should have, and ends them.

    ``owner`` is the owner of their tasks, see `CheckedOptions.owner`.
    """

    def __init__(
        self,
        records: ServiceRecords,
        client_letters: ClientLetters,
        questions: Questions,
        saved_states: SavedStates,
        consoles: Consoles,
        owner: object,
    ) -> None:
        self._records, self._client_letters, self._questions = records, client_letters, questions
        self._saved_states, self._consoles, self._owner = saved_states, consoles, owner
        self._warnings = WaitingWarnings(records)
        self._numbers, self._servers = itertools.count(1), itertools.count(1)
        self._leases, self._requests = itertools.count(1), itertools.count(1)

    def publish(self, published: PublishedService) -> ServiceRecord:
        """Start the servers of a new service. Raises the errors of `Cluster.spawn`."""
        service = ServiceRecord(
            next(self._numbers), published, ServerPool(self._leases, self._requests)
        )
        self._records.services[service.number] = service
        try:
            self._fill(service)
        except BaseException:
            service.ended = True
            del self._records.services[service.number]
            raise
        self._probe(service)
        return service

    def _probe(self, service: ServiceRecord) -> None:
        """End servers that do not answer for too long, if the service has a limit."""
        limit = service.published.call_limit
        if limit is None:
            return

        def servers() -> list[ServerRecord] | None:
            some = service.pool.servers.values()
            over = self._records.closed or (service.over() is not None and not some)
            return None if over else [server for server in some if server.ready]

        def ask(server: ServerRecord) -> None:
            self._records.post(server.address, Probe())

        service.probes = Probes(self._records.pump, limit, servers, ask, self._overdue)

    def _overdue(self, server: ServerRecord) -> None:
        if server.task is not None and not server.overdue:
            server.overdue = True
            self._records.controller.kill_and_cancel.stop_at_once(server.task, Cause.OVERDUE)

    def _fill(self, service: ServiceRecord) -> None:
        """Start missing servers; cancel surplus ones that wait for a slot."""
        if service.over() is not None or self._records.ending:
            return
        wanted = self._records.wanted(service)
        servers = list(service.pool.servers.values())
        if service.published.per == "host":
            missing = [host for host in wanted if host not in {server.fixed for server in servers}]
            missing = missing[: max(0, len(wanted) - len(servers) - service.withdrawn)]
        else:
            missing = [""] * max(0, len(wanted) - len(servers) - service.withdrawn)
            waiting = [
                server.task for server in servers if server.task and server.task.slot is None
            ]
            many = max(0, len(servers) - max(1, len(wanted)))
            too_many = [task for task in waiting[:many] if task.state is WAITING]
            self._records.controller.kill_and_cancel.cancel(too_many)
        for host in missing:
            server = ServerRecord(next(self._servers), fixed=host)
            service.pool.servers[server.number] = server
            self._records.by_server[server.number] = service, server
            saved = service.take_state(host, wanted)
            try:
                self.start(service, server, saved)
            except BaseException:
                del service.pool.servers[server.number], self._records.by_server[server.number]
                raise
        if missing:
            self._warnings.servers_wait(service)

    def start(self, service: ServiceRecord, server: ServerRecord, saved: SavedState | None) -> None:
        """Start a server, with the saved state of its predecessor if there is any."""
        if self._records.dropped:
            return
        published = service.published
        state = None if saved is None else self._saved_states.adopt(server.number, saved)
        settings = ServerSettings(
            service.name,
            server.number,
            published.checkpoint_every,
            published.idle_limit,
            published.call_limit,
        )
        options = published.options
        if server.fixed:
            options = replace(options, on=server.fixed)
        on_output = partial(self._consoles.printed, server.number)
        name = options.name or f"{service.name} {server.number}"
        options = replace(options, owner=self._owner, name=name, on_output=on_output)
        args = (settings, published.blueprint, state)
        server.task = self._records.controller.spawn(serve, args, {}, options)
        server.given, server.ready, server.overdue = 0, False, False
        self._records.by_task[server.task.id] = service, server
        self._consoles.introduce(service.name, server.number)

    def reconcile(self) -> None:
        """Adapt the number of servers of each service to the slots or hosts."""
        for service in list(self._records.services.values()):
            if service.over() is None and not self._records.ending and self._records.usable():
                try:
                    self._fill(service)
                except EncampError as exc:
                    self.fail(service, words_of(exc), exc)
                self._client_letters.refuse_too_many(service)

    def terminate(self, service: ServiceRecord, *, cancel: bool = False) -> None:
        """End a service: its servers end after their calls, or at once (``cancel``)."""
        if not service.ended:
            service.ended = True
            self._refuse_all(service, ServiceEnded(service.name))
        for server in list(service.pool.servers.values()):
            task = server.task
            if task is None:
                continue
            if task.state is WAITING:
                self._records.controller.kill_and_cancel.cancel([task])
            elif cancel:
                with suppress(UnsupportedByEngine):
                    task.future.kill()
            else:
                self._records.tell_server(server, END)

    def fail(self, service: ServiceRecord, why: str, cause: BaseException | None) -> None:
        """Record that a service can have no servers any more, and refuse all requests."""
        service.failure = ServiceFailed(service.name, why)
        if cause is not None:
            service.failure.__cause__ = portable_error(cause)
        self._refuse_all(service, service.failure)

    def _refuse_all(self, service: ServiceRecord, error: EncampError) -> None:
        self._client_letters.refuse_all(service, error)
        self._questions.answer_waiters()
