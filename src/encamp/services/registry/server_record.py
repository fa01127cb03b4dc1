"""The registry's record of a server, and of a client's request for servers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from encamp.services.call_statistics import CallStatistics

if TYPE_CHECKING:
    from encamp.cluster.records import TaskRecord
    from encamp.services.letters import ServiceCall
    from encamp.wire.frames import Parts

STARTING, FREE, HELD = "starting", "free", "held"


@dataclass(eq=False)
class Request:
    """A client's request for ``count`` servers (0: all), or for the one with number ``server``."""

    number: int
    client: int
    ticket: int
    count: int
    server: int
    gathered: list[ServerRecord] = field(default_factory=list)
    waits: bool = True
    """Whether it has neither been granted nor forgotten."""


@dataclass(eq=False)
class ServerRecord:
    """A server as the registry sees it. Numbers are never used again."""

    number: int
    task: TaskRecord | None = None
    state: str = STARTING
    lease: int = 0
    holder: int = 0
    group: int = 0
    clients: set[int] = field(default_factory=set)
    """The clients to inform if it is lost."""
    pinned: deque[Request] = field(default_factory=deque)
    statistics: CallStatistics = (0, 0, 0.0, 0.0)
    began: tuple[int, int] | None = None
    """The server's last call, as reported by `Stopping` when it was asked to stop."""
    host: str = ""
    fixed: str = ""
    """The only host where it may run; empty for any."""
    log: deque[tuple[int, ServiceCall, Parts]] = field(default_factory=deque)
    """Calls that its successor would have to repeat, for ``at_least_once``."""
    ready: bool = False
    """Whether its task can be sent calls."""
    given: int = 0
    """Calls of the log that were sent to its task."""
    poison: tuple[int, int] = (0, 0)
    """The call during which its predecessor died."""
    overdue: bool = False
    """Whether its task was ended because it did not answer for too long."""

    @property
    def address(self) -> int:
        """The number of its task; 0 if it has none."""
        return 0 if self.task is None else self.task.id
