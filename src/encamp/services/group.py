"""Groups: servers that were acquired together, with ranks and messages between them."""

from __future__ import annotations

import functools
from types import TracebackType

from encamp.services.collective_calls import Caller, CollectiveCalls
from encamp.services.letters import CALL
from encamp.services.proxy import ProxiedService, Proxy, make_group, send


class Group(CollectiveCalls):
    """Several servers that were acquired together; ``members`` are their proxies, by rank.

    A context manager: its end releases the servers. In a call of a member, `current_server` returns
    the member's rank, and sends messages to the other members.
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

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
