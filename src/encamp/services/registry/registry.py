"""All services of one cluster, at its controller: the cluster's `ServicesInterface`.

The registry and its parts run in the thread that drives the cluster's pump.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from encamp.cluster.records import TaskRecord
from encamp.cluster.services_interface import ControllerForServices
from encamp.errors import BadFrame
from encamp.service_statistics import ServiceStatistics
from encamp.services.current_client import program_client
from encamp.services.letters import (
    END,
    RELEASE,
    Acquire,
    Alive,
    Answers,
    Calls,
    Deadlock,
    Forget,
    Inquiry,
    LeaseEnded,
    Letter,
    NewClient,
    Ready,
    Saved,
    Stopping,
    WaitEnded,
    WaitStarted,
    decode,
)
from encamp.services.registry.client_letters import ClientLetters
from encamp.services.registry.consoles import Consoles
from encamp.services.registry.deadlocks import Deadlocks
from encamp.services.registry.program_client import ProgramClient
from encamp.services.registry.questions import Questions
from encamp.services.registry.replay_calls import Replays
from encamp.services.registry.saved_states import SavedStates
from encamp.services.registry.server_endings import ServerEndings
from encamp.services.registry.server_record import STARTING, ServerRecord
from encamp.services.registry.service_records import PublishedService, ServiceRecord, ServiceRecords
from encamp.services.registry.starter import Starter
from encamp.services.registry.waiting_warnings import remedy
from encamp.services.xterm_windows import Opener
from encamp.units import joined
from encamp.wire.frames import Parts
from encamp.wire.pickling import load
from encamp.wire.protocol import SPAWNER

_log = logging.getLogger("encamp")


class Registry:
    """The services of a cluster; its `ServicesInterface`."""

    def __init__(self, controller: ControllerForServices, cluster: object) -> None:
        self._records = records = ServiceRecords(controller, cluster)
        self.token = controller.token
        self.program = records.program = ProgramClient(controller, self.letter)
        program_client(self.token, self.program)
        self._warned_occupied = False
        self._saved_states = SavedStates(controller.disk_thread)
        self._consoles = Consoles()
        self._windows = Opener(controller.pump, controller.disk_thread)
        self._deadlocks = Deadlocks(self._servers_of, self._server_of, self._waits_for)
        self._client_letters, self._questions = ClientLetters(records), Questions(records)
        self._replays = Replays(records, self._saved_states)
        self._starter = Starter(
            records, self._client_letters, self._questions, self._saved_states, self._consoles, self
        )
        self._endings = ServerEndings(
            records, self._client_letters, self._starter, self._saved_states, self._consoles
        )
        self._handlers: dict[type, Callable[[int, Any, Parts], None]] = {
            Acquire: self._client_letters.acquire,
            Forget: self._forget,
            LeaseEnded: self._client_letters.lease_ended,
            NewClient: self._client_letters.new_client,
            Inquiry: self._ask,
            Calls: self._replays.relay,
            Ready: self._ready,
            Answers: self._answers,
            Saved: self._replays.saved,
            Stopping: self._stopping,
            Alive: self._alive,
            WaitStarted: self._wait_started,
            WaitEnded: lambda sender, letter, _: self._deadlocks.wait_ended(sender, letter.ticket),
        }
        controller.services = self

    def publish(self, published: PublishedService) -> ServiceRecord:
        """Start the servers of a service; see `encamp.services.service.publish`."""
        return self._starter.publish(published)

    # ServicesInterface

    @property
    def servers(self) -> int:
        """See `ServicesInterface.servers`."""
        return len(self._records.by_task)

    @property
    def idle_servers(self) -> int:
        """See `ServicesInterface.idle_servers`."""
        return max(0, len(self._records.by_task) - self.program.awaited - len(self._records.held))

    @property
    def idle(self) -> bool:
        """See `ServicesInterface.idle`."""
        services = self._records.services.values()
        unserved = [one for one in services if not one.placed] if self.occupy_all_slots else []
        waiting = any(one.pool.waiting for one in services if one not in unserved)
        return not (waiting or self.program.awaits({one.number for one in unserved}))

    @property
    def occupy_all_slots(self) -> bool:
        """See `ServicesInterface.occupy_all_slots`."""
        slots = self._records.controller.scheduler.slots
        services = list(self._records.services.values())  # a user's thread may ask
        return 0 < slots <= sum(one.placed for one in services)

    @property
    def names(self) -> str:
        """See `ServicesInterface.names`."""
        services = list(self._records.services.values())
        return joined(one.name for one in services if one.placed)

    def arrived(self, sender: int, parts: Parts) -> None:
        """See `ServicesInterface.arrived`."""
        try:
            letter = decode(parts[0])
        except BadFrame:
            return
        self.letter(sender, letter, parts[1:])

    def letter(self, sender: int, letter: Letter, parts: Parts) -> None:
        """Handle a letter of a client or a server."""
        handler = self._handlers.get(type(letter))
        if handler is not None:
            handler(sender, letter, parts)

    def warn_if_occupied(self) -> None:
        """See `ServicesInterface.warn_if_occupied`."""
        if self._warned_occupied or self._records.pump.driving or not self.occupy_all_slots:
            return
        services = [one for one in list(self._records.services.values()) if one.placed]
        names = dict.fromkeys(one.name for one in services if not one.ended)
        if names:  # otherwise they are ending
            self._warned_occupied = True
            what = remedy(several=len(names) > 1)
            _log.warning(
                "tasks wait because servers of %s occupy all slots; %s", joined(names), what
            )

    def hosts_changed(self) -> None:
        """See `ServicesInterface.hosts_changed`."""
        self._records.pump.call_soon(self._starter.reconcile)

    def end_servers(self) -> None:
        """See `ServicesInterface.end_servers`."""
        self._records.ending = True
        for service in self._records.services.values():
            self._starter.terminate(service)

    def close(self) -> None:
        """See `ServicesInterface.close`."""
        self._records.ending = self._records.closed = True
        self._saved_states.close()
        self._consoles.close()

    def statistics(self) -> list[ServiceStatistics]:
        """See `ServicesInterface.statistics`."""
        return [self._questions.statistics(one) for one in self._records.services.values()]

    def ended(self, task: TaskRecord, good: bool, value: Any) -> None:
        """See `ServicesInterface.ended`."""
        found = self._records.by_task.pop(task.id, None)
        if found is not None:
            self._endings.server_ended(*found, task, good, value)
        self._deadlocks.wait_ended(task.id)
        held = self._records.held.pop(task.id, ())
        for server in list(held):
            if server.holder == task.id and server.number in self._records.by_server:
                self._release(server)
        self._client_letters.ended(task.id)

    def _release(self, server: ServerRecord) -> None:
        """Free the server of an ended task, after the calls sent so far."""
        service, _ = self._records.by_server[server.number]
        if service.published.at_least_once:
            call = (0, server.lease, RELEASE, "", b"", 0)
            self._replays.relay(SPAWNER, Calls(server.number, [call], SPAWNER), [])
        else:
            self._records.tell_server(server, RELEASE, server.lease)

    # What clients ask

    def _forget(self, sender: int, letter: Forget, parts: Parts) -> None:
        self._client_letters.forget(sender, letter.ticket)
        self._questions.forget(sender, letter.ticket)

    def _ask(self, sender: int, letter: Inquiry, parts: Parts) -> None:
        service = self._records.services[letter.service]
        arguments = load(parts)
        if letter.what == "terminate":
            self._starter.terminate(service, cancel=arguments[0])
        self._questions.answer(service, sender, letter, arguments)

    # Messages from servers

    def _ready(self, sender: int, letter: Ready, parts: Parts) -> None:
        found = self._records.by_task.get(sender)
        if found is None:
            return
        service, server = found
        service.methods = letter.methods
        task = server.task
        service.pool.moved(server, (task.future.host if task is not None else "") or "")
        self._show(service, server)
        if service.ended:
            self._records.tell_server(server, END)
            return
        server.ready = True
        if server.log:
            self._replays.replay(server)
        if server.state == STARTING:
            service.pool.opened(server)
        self._client_letters.grant(service)
        self._questions.answer_waiters()

    def _show(self, service: ServiceRecord, server: ServerRecord) -> None:
        """Record where a server runs for its console, and open a window if the service has one."""
        number, windows = server.number, service.published.windows
        slot = None if server.task is None else server.task.future.slot
        self._consoles.introduce(service.name, number, server.host, slot)
        if windows is not None and server.state == STARTING:
            self._windows.open(windows, f"{service.name}/{number}", server.host)

    def _answers(self, sender: int, letter: Answers, parts: Parts) -> None:
        found = self._records.by_task.get(sender)
        if found is not None:
            service, server = found
            server.statistics = letter.statistics
            if letter.answers:
                service.deaths = 0
                self.program.take(letter, parts)
            for lease in letter.freed:
                if lease == server.lease:
                    self._client_letters.freed(service, server)

    def _stopping(self, sender: int, letter: Stopping, parts: Parts) -> None:
        found = self._records.by_task.get(sender)
        if found is not None:
            found[1].began = letter.about, letter.mark

    def _alive(self, sender: int, letter: Alive, parts: Parts) -> None:
        found = self._records.by_task.get(sender)
        if found is not None and found[0].probes is not None:
            found[0].probes.answered(sender)

    # Deadlocks

    def _wait_started(self, sender: int, letter: WaitStarted, parts: Parts) -> None:
        if self._deadlocks.wait_started(sender, letter):
            self._records.send_letter(sender, Deadlock(letter.ticket))

    def _servers_of(self, service: int) -> list[ServerRecord]:
        return list(self._records.services[service].pool.servers.values())

    def _server_of(self, number: int) -> ServerRecord | None:
        found = self._records.by_server.get(number)
        return None if found is None else found[1]

    def _waits_for(self, service: int, task: int) -> bool:
        known = self._records.services.get(service)
        return known is not None and any(
            request.client == task for request in known.pool.requests()
        )
