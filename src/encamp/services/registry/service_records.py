"""The records that the parts of a registry share: services, servers, and their users."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol
from weakref import ref

from encamp.cluster.services_interface import ControllerForServices
from encamp.cluster.spawn_options import SpawnOptions
from encamp.errors import EncampError, ServiceEnded, ServiceFailed
from encamp.service_statistics import ServerStatistics
from encamp.services.letters import Calls, Letter, ServerGone, encode
from encamp.services.registry.choose_server import ServerPool
from encamp.services.registry.probes import Probes
from encamp.services.registry.saved_states import SavedState
from encamp.services.registry.server_record import ServerRecord
from encamp.services.server import Blueprint
from encamp.services.xterm_windows import Windows
from encamp.wire.frames import Parts
from encamp.wire.protocol import SERVICES, SPAWNER

_FORMER = 100
"""Maximum number of former servers in a service's statistics."""


@dataclass(frozen=True)
class PublishedService:
    """How a service was published. ``count`` is None for as many as there are slots or hosts."""

    name: str
    blueprint: Blueprint
    options: SpawnOptions
    per: str
    count: int | None
    restarts: int
    checkpoint_every: int
    at_least_once: bool
    idle_limit: float | None
    call_limit: float | None
    windows: Windows | None


class ServiceRecord:
    """One service, as the registry sees it."""

    def __init__(self, number: int, published: PublishedService, pool: ServerPool) -> None:
        self.number, self.published, self.pool = number, published, pool
        self.methods: list[str] = []
        self.ended = False
        self.failure: ServiceFailed | None = None
        self.lost = 0
        self.deaths = 0
        """Servers that have died in a row without an answer in between."""
        self.withdrawn = 0
        """Number of ended servers that are not replaced."""
        self.states: list[tuple[str, SavedState]] = []
        """States of dead servers that successors take over, with the host if it is fixed."""
        self.warned_waiting = False
        """Whether the warning that servers wait for slots was logged or is scheduled."""
        self.warned_held = False
        """Whether the reason why the program waits for servers was logged."""
        self.probes: Probes | None = None
        self.former: deque[ServerStatistics] = deque(maxlen=_FORMER)

    @property
    def name(self) -> str:
        """The service's name."""
        return self.published.name

    @property
    def placed(self) -> int:
        """How many of its servers have a slot."""
        tasks = [server.task for server in list(self.pool.servers.values())]
        return sum(task is not None and task.slot is not None for task in tasks)

    def take_state(self, host: str, hosts: Container[str]) -> SavedState | None:
        """The saved state for a new server that is fixed to ``host`` ("": to none).

        It is that of a former server on this host, or on one that is not among the ``hosts``.
        """
        at = [former for former, _ in self.states]
        if host not in at:
            host = next((former for former in at if former not in hosts), host)
        return self.states.pop(at.index(host))[1] if host in at else None

    def over(self) -> EncampError | None:
        """The error for requests if no server can be acquired any more; else None."""
        return ServiceEnded(self.name) if self.ended else self.failure


class Program(Protocol):
    """The program's client, which is called, not sent to."""

    def take(self, letter: Letter, payload: Parts) -> None:
        """Take a letter."""


class ServiceRecords:
    """All services of a cluster, their servers and leases; for the thread that drives the pump."""

    def __init__(self, controller: ControllerForServices, cluster: object) -> None:
        self.controller, self.pump = controller, controller.pump
        self._cluster = ref(cluster)
        self.program: Program | None = None
        """The client of the program, which is called without a message."""
        self.services: dict[int, ServiceRecord] = {}
        self.by_server: dict[int, tuple[ServiceRecord, ServerRecord]] = {}
        self.by_task: dict[int, tuple[ServiceRecord, ServerRecord]] = {}
        self.held: dict[int, set[ServerRecord]] = {}
        """By task, the servers that it has acquired."""
        self.lost: dict[int, ServerGone] = {}
        self.errors: dict[int, EncampError] = {}
        """By former server, the error for its clients."""
        self.ending = self.closed = False

    @property
    def dropped(self) -> bool:
        """Whether the cluster object was garbage-collected."""
        return self._cluster() is None

    def wanted(self, service: ServiceRecord) -> list[str]:
        """The servers that a service should have: the host of each, or "" for any host."""
        published = service.published
        on = published.options.need().on
        hosts = [
            host
            for host in self.controller.scheduler.hosts.values()
            if on is None or host.name in on
        ]
        if published.per == "host":
            wanted = [host.name for host in hosts]
        else:
            wanted = [""] * sum(len(host.slots) for host in hosts)
        if published.count is not None:
            wanted = (
                wanted[: published.count] if published.per == "host" else [""] * published.count
            )
        return wanted

    def usable(self) -> bool:
        """Whether servers can still be started."""
        controller = self.controller
        gone = controller.failure is not None or controller.closing
        return not (gone or self.dropped or controller.closed)

    def tell_server(self, server: ServerRecord, op: int, lease: int = 0) -> None:
        """Send a server `RELEASE` or `END`, which it handles after the calls sent before."""
        call = (0, lease, op, "", b"", 0)
        self.post(server.address, Calls(server.number, [call]))

    def post(self, task: int, letter: Letter, payload: Parts = []) -> None:  # noqa: B006
        """Send to a task."""
        self.controller.messages.send(task, SPAWNER, [encode(letter), *payload], SERVICES)

    def send_letter(self, client: int, letter: Letter, payload: Parts = []) -> None:  # noqa: B006
        """Send to a client: a task, or the program."""
        if client == SPAWNER and self.program is not None:
            self.program.take(letter, payload)
        else:
            self.post(client, letter, payload)
