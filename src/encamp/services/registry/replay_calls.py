"""Calls that a server's successor has to repeat, for services with ``at_least_once``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from encamp.services.letters import Calls, Saved, ServiceCall
from encamp.services.registry.saved_states import SavedStates
from encamp.services.registry.server_record import ServerRecord
from encamp.services.registry.service_records import ServiceRecords
from encamp.wire.frames import Parts, own

_TOGETHER = 1000
"""Maximum number of calls in one message."""
Entry = tuple[int, ServiceCall, Parts]
"""A call of a server's log, with its client and large buffers."""


class Replays:
    """Keeps the calls of servers since their last saved state, and sends them to successors."""

    def __init__(self, records: ServiceRecords, saved_states: SavedStates) -> None:
        self._records, self._saved_states = records, saved_states

    def relay(self, sender: int, letter: Calls, parts: Parts) -> None:
        """Log calls for a server, and send them if it is ready."""
        found = self._records.by_server.get(letter.server)
        if found is None:
            return
        _, server = found
        at = 0
        kept = own(parts)
        for call in letter.calls:
            _, _, _, _, _, count = call
            server.log.append((letter.client, call, kept[at : at + count]))
            at += count
        if server.ready:
            self.replay(server)

    def replay(self, server: ServerRecord) -> None:
        """Send a server the calls of its log that were not sent to its task yet."""
        new = itertools.islice(server.log, server.given, None)
        for client, entries in itertools.groupby(new, lambda entry: entry[0]):
            for some in _few(entries):
                calls = [call for _, call, _ in some]
                buffers = [part for _, _, parts in some for part in parts]
                self._records.post(server.address, Calls(server.number, calls, client), buffers)
        server.given = len(server.log)

    def saved(self, sender: int, letter: Saved, parts: Parts) -> None:
        """Save the state that a server has sent, and drop the calls that it includes."""
        found = self._records.by_task.get(sender)
        if found is None:
            return
        _, server = found

        def kept(new: int) -> None:
            """Drop the calls that a state on the disk includes: they do not have to be repeated."""
            if server.address == sender:
                for _ in range(min(new, len(server.log))):
                    server.log.popleft()
                    server.given -= 1

        self._saved_states.keep(server.number, letter.serial, own(parts), kept)


def _few(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """The entries in lists of as many as fit into one message."""
    while some := list(itertools.islice(entries, _TOGETHER)):
        yield some
