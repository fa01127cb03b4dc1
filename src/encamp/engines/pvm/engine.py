"""The controller's end of the PVM engine: agents on the machine's hosts, and which join and leave.

Agents join with their hosts, including hosts that are added later, and an agent that dies alone is
replaced.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from encamp.engines.base import CONTROLLER, Arrival, Engine, Joined, Left
from encamp.engines.kit.interpreter import PACKAGE, START, interpreter_flags
from encamp.engines.kit.sentinel import Sentinel
from encamp.engines.pvm import libpvm
from encamp.engines.pvm.endpoint import PVMEndpoint
from encamp.engines.pvm.hosts import remove_log
from encamp.engines.pvm.libpvm import HostInfo, PVMError
from encamp.engines.pvm.machine import exported, runs
from encamp.engines.pvm.membership import (
    ADDED,
    ENDED,
    FRAME,
    PRINTED,
    TABLE,
    Connection,
    Membership,
    encode,
)
from encamp.engines.pvm.naming import first_words, host_names
from encamp.errors import EngineFailed
from encamp.wire.frames import Buffer

_ENDS_WITHIN = 7.0
"""Seconds that agents may take to end by themselves, since their slots have to end first."""
_ENDED_WITHIN = 2.0
_SILENT = 6.0
"""Seconds of silence after which an agent is not expected to end by itself."""
_LOOK = 0.05
_TAIL = 2000
_ALL_ADDED = 1 << 20
"""Number of added hosts about which PVM's notification is requested."""


@dataclass
class _Agent:
    """An agent; ``sentinel`` becomes readable at its process's end, if that is ``here``.

    It is ``addressed`` if the controller has sent it anything, as to all agents that it knows.
    """

    number: int
    tid: int
    host: HostInfo
    slots: int
    here: bool
    joined: bool = False
    addressed: bool = False
    given_up: bool = False
    replaced: bool = False
    sentinel: Sentinel | None = None
    said: bytes = b""

    @property
    def why(self) -> str:
        """Why it has left."""
        last = self.said.decode(errors="replace").strip().splitlines()[-1:]
        after = ": " if last else ""
        lacks = "ModuleNotFoundError" in "".join(last)
        what = "; install encamp for that Python there, or set python=…" if lacks else ""
        return f"its PVM task on {self.host.name} ended{after}{''.join(last)[:300]}{what}"


class PVMEngine(PVMEndpoint, Engine):
    """The controller's endpoint, which is one PVM task.

    ``slots`` is the number of slots in all, by default that of the hosts' cores; an agent has at
    most ``per_agent`` of them, by default all of its host. ``hosts`` are the hosts to use, which
    are added to the machine if need be; by default all hosts of the machine. An agent that dies
    alone is started again, at most ``restarts`` times. ``python`` is the interpreter on all hosts,
    ``module`` the agent's program.

    Frames are sealed, since daemons accept packets from any program that knows the format.
    """

    name = "pvm"
    private = False

    def __init__(
        self,
        member: Membership,
        slots: int | None,
        hosts: list[str],
        per_agent: int | None,
        python: str,
        restarts: int,
        module: str,
    ) -> None:
        there = member.machine.add(hosts) if hosts else set()
        super().__init__(member, CONTROLLER)
        self._python, self._restarts, self._module = python, restarts, module
        self._orders = b""
        self._agents: dict[int, _Agent] = {}
        self._numbers = 0
        self._ended: list[_Agent] = []
        self._refused: list[str] = []
        self._look = self._stopped = False
        self._only = first_words(hosts)
        self._before: set[int] = set()
        """Whether hosts that others add to the machine are used, too."""
        self._shares: dict[str, list[int]] = {}
        """Host → slots of each of its agents; 0 for as many as it has cores."""
        try:
            if hosts:
                self._only |= self._called(there)
                self._before = {host.tid for host in self._all_hosts()}
            self._share(slots, per_agent)
        except BaseException:
            self.close()
            raise

    def _called(self, tids: Collection[int]) -> set[str]:
        """The machine's names of hosts, which may differ from the names that were given."""
        return {host.name for host in self._all_hosts() if host.tid in tids}

    def _share(self, slots: int | None, per_agent: int | None) -> None:
        """Decide how many agents with how many slots each host gets."""
        hosts = self.machine_hosts()
        if not hosts:
            raise EngineFailed(self.name, "none of the hosts is in the virtual machine")
        self._known: set[int] = set()
        share, more = divmod(slots or 0, len(hosts))
        for number, host in enumerate(hosts):
            wanted = share + (number < more)
            self._shares[host.name] = _agents(None if slots is None else wanted, per_agent)
        self._usual = _agents(None if slots is None else max(1, share), per_agent)
        self.agents = sum(map(len, self._shares.values()))

    def one_slot_each(self) -> None:
        """See `Engine.one_slot_each`; without a number of slots it is one on each host."""
        self._shares = {host: [1] * sum(max(1, n) for n in s) for host, s in self._shares.items()}
        self._usual = [1] * sum(max(1, n) for n in self._usual)
        self.agents = sum(map(len, self._shares.values()))

    def machine_hosts(self) -> list[HostInfo]:
        """The hosts of the virtual machine that are to be used."""
        only, before = self._only, self._before if self._member.machine.own else None
        return [
            host
            for host in self._all_hosts()
            if not only or host.name in only or (before and host.tid not in before)
        ]

    def _all_hosts(self) -> list[HostInfo]:
        with self._member.lock:
            try:
                return libpvm.config()
            except PVMError as exc:
                raise EngineFailed(self.name, str(exc)) from exc

    def start(self, orders: bytes) -> None:
        """See `Engine.start`; agents are starting when it returns."""
        self._orders = orders
        with self._member.lock:
            libpvm.setopt(libpvm.OUTPUT_TID, self._member.tid)
            libpvm.setopt(libpvm.OUTPUT_CODE, PRINTED)
            libpvm.notify(libpvm.HOST_ADD, ADDED, count=_ALL_ADDED)
            for host, slots in self._missing([]):
                self._spawn(host, slots)
            self._introduce()
        if not self._agents:
            raise EngineFailed(self.name, f"no agent could be started: {'; '.join(self._refused)}")

    def _spawn(self, host: HostInfo, slots: int) -> None:
        """Start an agent, and queue its orders."""
        self._numbers += 1
        number, here = self._numbers, libpvm.tidtohost(self._member.tid) == host.tid
        program = [*interpreter_flags(), "-P", "-c", START, PACKAGE, self._module, "pvm"]
        arguments = [*program, str(number), str(slots), self._where(here)]
        with exported(here):
            (tid,) = libpvm.spawn(self._python, arguments, libpvm.TASK_HOST, f"{host.name}:/")
        if tid < 0:
            self._refused.append(f"{self._python} on {host.name}: {libpvm.code_text(tid)}")
            self.agents -= 1
            return
        self._agents[number] = _Agent(number, tid, host, slots, here)
        connection = self.connection(number, tid)
        connection.called = True  # the agent opens the connection
        connection.waiting.append((FRAME, encode([self._orders])))
        libpvm.notify(libpvm.TASK_EXIT, ENDED, [tid])

    def _where(self, here: bool) -> str:
        return "here" if here else "ours" if self._member.machine.own else "there"

    def _introduce(self) -> None:
        """Tell all agents the tasks of the others."""
        table = encode({agent.number: agent.tid for agent in self._agents.values()})
        for number in self._agents:
            connection = self._connections[number]
            connection.waiting.append((TABLE, table))
            self._member.flush(connection)

    # What the membership reports

    def connected(self, connection: Connection, process: Sequence[int]) -> None:
        """An agent has joined."""
        agent = self._agents.get(connection.number)
        if agent is not None and not agent.joined:
            agent.joined = True
            if agent.here:
                with suppress(OSError):
                    agent.sentinel = Sentinel(process[0])
            self.put(Joined(agent.number))

    def told(self, tag: int, values: Sequence[int], text: Buffer) -> None:
        """An agent has ended or printed something, or there are new hosts; `receive` handles it."""
        if tag == ADDED:
            self._look = True
            self.wake()
            return
        agent = next((one for one in self._agents.values() if one.tid == values[0]), None)
        if agent is None:
            return
        if tag == PRINTED:
            agent.said = (agent.said + bytes(text))[-_TAIL:]
        elif agent not in self._ended:
            self._ended.append(agent)
            self.wake()

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`; new agents are started here."""
        arrivals = super().receive()
        if self._ended or self._look:
            with self._member.lock:
                if not (self._member.stirred or self._member.failure or self._stopped):
                    arrivals = [*arrivals, *self._changes()]
        return arrivals

    def _changes(self) -> list[Arrival]:
        """Handle agents that have ended, after their last frames, and changes of the hosts."""
        ended, self._ended = self._ended, []
        told: list[Arrival] = [Left(agent.number, agent.why) for agent in ended if agent.joined]
        for agent in ended:
            self._forget(agent)
        self._look = False
        before = self._numbers
        for host, slots in self._missing([agent for agent in ended if agent.joined]):
            self._spawn(host, slots)
        if self._numbers > before:
            self._introduce()
        elif not self._agents and not told:
            raise EngineFailed(self.name, ended[-1].why if ended else "it has no agents")
        return told

    def _missing(self, ended: list[_Agent]) -> Iterator[tuple[HostInfo, int]]:
        """Hosts without agents, or that have lost one; a loss counts as a restart, unless the host
        had been silent."""
        hosts = self.machine_hosts()
        known, self._known = self._known, {host.tid for host in hosts}
        for host in hosts:
            if host.tid not in known:
                self._remove_log(host)
                shares = self._shares.get(host.name, self._usual)
                yield from ((host, slots) for slots in shares)
        for agent in ended:
            if agent.host in hosts and agent.host.tid in known and not agent.replaced:
                self._restarts -= not agent.given_up
                if agent.given_up or self._restarts >= 0:
                    yield agent.host, agent.slots

    def _remove_log(self, host: HostInfo) -> None:
        """Remove the log of a host that others have added to this process's machine."""
        if self._member.machine.own and host.tid != libpvm.tidtohost(self._member.tid):
            remove_log(host)

    def add_hosts(self, hosts: Sequence[str]) -> None:
        """See `Engine.add_hosts`; hosts that were given up are removed from the machine first.

        If others have started the machine, only hosts that are added again are removed.
        """
        hosts = host_names(hosts)
        with self._member.lock:
            agents = list(self._agents.values())
            alive = {agent.host.tid for agent in agents if not agent.given_up}
            own, names = self._member.machine.own, first_words(hosts)
            lost = [agent for agent in agents if agent.host.tid not in alive]
            lost = [agent for agent in lost if own or agent.host.name in names]
            for agent in lost:
                agent.replaced = True
        there = self._member.machine.add(hosts, dead={agent.host.name for agent in lost})
        with self._member.lock:
            self._known -= {agent.host.tid for agent in lost}
            if self._only:
                self._only |= names | self._called(there)
            self._look = True
            self.wake()

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        if agent := self._agents.get(to):
            agent.addressed = True
        super().send(to, parts)

    def give_up(self, agent: int) -> None:
        """See `Engine.give_up`."""
        if agent in self._agents:
            self._agents[agent].given_up = True
            if connection := self._connections.get(agent):
                connection.given_up = True

    def _forget(self, agent: _Agent) -> None:
        del self._agents[agent.number]
        if connection := self._connections.get(agent.number):
            self.lost(connection)
        if agent.sentinel is not None:
            agent.sentinel.close()

    # The end

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._stopped = True
        if self._member.process != os.getpid() or self._closed:
            return
        self._drop_lost()
        self._end_unknown()
        self._wait(_ENDS_WITHIN, silent=_SILENT)
        self._wait(_ENDED_WITHIN)
        for agent in self._agents.values():
            self._end(agent)
        self._wait(_ENDED_WITHIN)
        self.close()

    def _end_unknown(self) -> None:
        """End agents that the controller has not told to end, as they join too late."""
        for agent in list(self._agents.values()):
            if not agent.addressed:
                self._end(agent)

    def _drop_lost(self) -> None:
        """Remove hosts that were given up, for which the machine would wait at its end."""
        with self._member.lock:
            lost = [agent for agent in self._agents.values() if agent.given_up]
            for agent in lost:
                self._forget(agent)
            alive = {agent.host.tid for agent in self._agents.values()}
            dead = {agent.host.tid for agent in lost} - alive
            if self._member.machine.own and not self._member.failure:
                for tid in dead:
                    with suppress(PVMError):
                        libpvm.fail_host(tid)

    def _wait(self, seconds: float, silent: float = math.inf) -> None:
        """Wait for the end of all agents, except silent ones, for some seconds."""
        deadline, heard = time.monotonic() + seconds, time.monotonic() - silent
        while time.monotonic() < deadline:
            connections = [
                self._connections[number] for number in self._agents if number in self._connections
            ]
            if not any(connection.heard > heard for connection in connections):
                break
            with self._member.lock:
                for agent in self._gone():
                    self._forget(agent)
                self._arrivals.clear()
                self.quiet()
                at_once = self._member.stirred or not self._agents
            if not at_once:
                self._poll.poll(_LOOK)

    def _gone(self) -> list[_Agent]:
        """The agents that have ended; without a daemon, agents on other hosts count as ended."""
        if self._member.failure:
            return [agent for agent in self._agents.values() if not runs(agent.sentinel)]
        self._member.drain()
        self._member.sync()
        ended, self._ended = self._ended, []
        return ended

    def _end(self, agent: _Agent) -> None:
        """End an agent by force, if it can be reached."""
        if agent.sentinel is not None:
            agent.sentinel.kill()
        else:
            with self._member.lock, suppress(PVMError):
                libpvm.kill(agent.tid)


def _agents(slots: int | None, per_agent: int | None) -> list[int]:
    """The slots of each agent of a host with ``slots`` slots; None for as many as cores."""
    if slots is None:
        return [per_agent or 0]
    each = per_agent or max(1, slots)
    whole, rest = divmod(slots, each)
    return [each] * whole + [rest] * (rest > 0)
