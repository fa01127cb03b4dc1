"""Warnings with the reason why servers wait for slots, or why the program waits for servers."""

from __future__ import annotations

import logging

from encamp.services.registry.server_record import Request
from encamp.services.registry.service_records import ServiceRecord, ServiceRecords
from encamp.units import counted, joined

WARN_AFTER = 1.0
"""Seconds until a warning explains why servers wait for slots, or clients for servers."""
_log = logging.getLogger("encamp")


class WaitingWarnings:
    """Logs each warning once for a service."""

    def __init__(self, records: ServiceRecords) -> None:
        self._records = records

    def servers_wait(self, service: ServiceRecord) -> None:
        """Log why servers wait for slots, if they still do later."""
        if not service.warned_waiting:
            service.warned_waiting = True
            self._records.pump.call_later(
                WARN_AFTER, lambda: self._warn_of_waiting_servers(service)
            )

    def _warn_of_waiting_servers(self, service: ServiceRecord) -> None:
        waiting = self._without_slot(service)
        if waiting and service.over() is None:
            others = [one for one in self._records.services.values() if one is not service]
            there = [one.name for one in others if one.placed and not one.ended]
            ending = [one.name for one in others if one.placed and one.ended]
            _log.warning("%s", waiting_for_slots(service.name, waiting, there, ending))

    def _without_slot(self, service: ServiceRecord) -> int:
        servers = service.pool.servers.values()
        return sum(server.task is not None and server.task.slot is None for server in servers)

    def client_waits(self, service: ServiceRecord, request: Request) -> None:
        """Log why the program waits for servers, if it still does later; once for each service."""
        if request.waits and not service.warned_held:
            self._records.pump.call_later(
                WARN_AFTER, lambda: self._warn_of_holders(service, request)
            )

    def _warn_of_holders(self, service: ServiceRecord, request: Request) -> None:
        why = service.pool.in_use()
        if not why:  # they are starting
            self.client_waits(service, request)
        elif request.waits and not service.warned_held:
            service.warned_held = True
            what = {0: "all servers", 1: "a server"}.get(request.count, f"{request.count} servers")
            _log.warning("waiting for %s of %s: %s", what, service.name, why)


def waiting_for_slots(name: str, count: int, there: list[str], ending: list[str]) -> str:
    """The warning that servers have no slot; services ``there`` and ``ending`` occupy the slots."""
    text = (
        f"{counted(count, 'server')} of {name} {'waits' if count == 1 else 'wait'} for free slots"
    )
    if not there and not ending:
        return text
    names = [f"an earlier service {name}" if one == name else one for one in there or ending]
    several = len(set(names)) > 1
    who = f"{joined(names)} {'have' if several else 'has'}"
    if not there:
        return f"{text}; {who} not ended yet"
    return f"{text}; {who} slots: {remedy(several=several)}"


def remedy(*, several: bool) -> str:
    """The remedy for services that occupy slots."""
    it = "them" if several else "it"
    return f"terminate {it}, or publish {it} with count="
