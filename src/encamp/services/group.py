"""Groups: servers that were acquired together, with ranks and messages between them."""

from __future__ import annotations

import functools

from encamp.services.collective_calls import Caller, CollectiveCalls
from encamp.services.letters import CALL
from encamp.services.proxy import ProxiedService, Proxy, Released, make_group, send


class Group(CollectiveCalls, Released):
    """Several servers that were acquired together; ``members`` are their proxies, by rank.

    A context manager: its end releases the servers. In a call of a member, `current_server` has the
    member's ``rank``, and sends messages to the other members.
    """

    def __init__(self, service: ProxiedService, members: list[Proxy]) -> None:
        self.service, self.members, self.name = service, members, service.name
        self._client = service._client
        make_group(members)

    def __len__(self) -> int:
        return len(self.members)

    def _callers(self) -> list[Caller]:
        return [functools.partial(send, member, CALL) for member in self.members]

    def release(self) -> None:
        """Release all members after the calls made so far."""
        for member in self.members:
            member.release()
