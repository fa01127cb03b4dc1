"""The hosts of a cluster in PVM's terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from encamp.compat.pyopus.clustered import task_here
from encamp.compat.pyopus.spawner import Spawner, opened
from encamp.errors import ClusterClosed

if TYPE_CHECKING:
    from encamp.cluster.port import ClusterPort

_FIRST_HOST = 1 << 18
_ODD_HOSTS = 0xF00
"""First number that PVM gives to no host: for hosts that left before their id was known."""


@dataclass(frozen=True)
class PVMHost:
    """A host of the virtual machine; ``alias`` is the cluster's name for it, if it has one."""

    dtid: int
    name: str
    arch: str
    speed: int
    alias: str | None


class HostTable:
    """The hosts of a virtual machine. On other engines than PVM, they are numbered in order."""

    def __init__(self, ours: Spawner) -> None:
        self._ours, self._here = ours, ours.host_of[0]
        self.hosts: dict[int, PVMHost] = {}
        """The hosts in the machine, by id."""
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.renew()

    @property
    def _port(self) -> ClusterPort | None:
        return self._ours.port

    @property
    def _engine(self) -> Any:
        """The engine, if it is PVM's."""
        engine = None if self._port is None else self._port.engine
        return engine if engine is not None and engine.name == "pvm" else None

    @property
    def own_tid(self) -> int:
        """The spawner's own id."""
        engine = self._engine
        tid: int = self.dtid(self._here) | 1 if engine is None else engine.tid
        return tid

    @property
    def failed(self) -> bool:
        """Whether the machine has ended."""
        return self._port is None or self._port.failed

    def renew(self) -> None:
        """Update the hosts. Raises a `ClusterError` if the machine has ended."""
        if self._port is not None and self._port.closed:
            raise ClusterClosed  # libpvm would join a different machine
        hosts = self._others() if self._engine is None else self._of_pvm(self._engine)
        self.hosts = {host.dtid: host for host in sorted(hosts, key=lambda host: host.dtid)}
        for host in hosts:
            self._names[host.dtid] = host.name
            if host.alias is not None:
                self._ids[host.alias] = host.dtid

    def _of_pvm(self, engine: Any) -> list[PVMHost]:
        aliases = {} if (port := self._port) is None else port.pump.call(lambda: _aliases(port))
        return [
            PVMHost(host.tid, host.name, host.arch, host.speed, aliases.get(host.tid))
            for host in engine.machine_hosts()
        ]

    def _others(self) -> list[PVMHost]:
        cluster = self._ours.cluster
        names = [host.name for host in cluster.hosts()] if cluster is not None else []
        return [PVMHost(self.dtid(name), name, "LINUX64", 1000, name) for name in names]

    def dtid(self, alias: str) -> int:
        """The id of a host by the cluster's name for it, even if it has left."""
        if alias not in self._ids:
            least = 0 if self._engine is None else _ODD_HOSTS
            number = max([least, *(dtid // _FIRST_HOST for dtid in self._ids.values())]) + 1
            self._ids[alias] = number * _FIRST_HOST
        return self._ids[alias]

    def name(self, dtid: int) -> str | None:
        """PVM's name for a host, even if it has left."""
        return self._names.get(dtid)

    def alias(self, dtid: int) -> str | None:
        """The cluster's name for a host, even if it has left."""
        return next((name for name, known in self._ids.items() if known == dtid), None)

    def answering(self, timeout: float | None) -> set[str]:
        """The hosts that answer in time, by the cluster's names. None waits for all.

        A host that is silent for some seconds leaves the cluster, and is not waited for.
        """
        cluster, port = self._ours.cluster, self._port
        if cluster is None or port is None:
            return set()
        if self._engine is None:
            return {host.name for host in cluster.hosts()}
        silent = dict(port.pump.call(lambda: _ask(port)))
        known = port.agents.by_number

        def all_heard() -> bool:
            for number in list(silent):
                if number not in known or known[number].answered:
                    del silent[number]
            return not silent

        port.pump.until(all_heard, timeout)
        return {host.name for host in cluster.hosts()} - {*silent.values()}


def _ask(port: ClusterPort) -> list[tuple[int, str]]:
    """Ping all agents; returns their numbers and hosts."""
    here = port.agents.here()
    for agent in here:
        port.agents.ping(agent)
    return [(agent.number, agent.host) for agent in here]


def _aliases(port: ClusterPort) -> dict[int, str]:
    """Ids of hosts with an agent → the cluster's names."""
    engine: Any = port.engine  # PVM's
    hosts = ((engine.host_of(agent.number), agent.host) for agent in port.agents.here())
    return {host.tid: alias for host, alias in hosts if host is not None}


def host_table_of(ours: Spawner) -> HostTable:
    """The host table of a machine, new if there is none."""
    if ours.host_table is None:
        ours.host_table = HostTable(ours)
    found: HostTable = ours.host_table
    return found


def known_name(dtid: int) -> str | None:
    """PVM's name for a host, if this is a spawner that knows it."""
    ours = None if task_here() is not None else opened()
    host_table: HostTable | None = None if ours is None else ours.host_table
    return None if host_table is None else host_table.name(dtid)
