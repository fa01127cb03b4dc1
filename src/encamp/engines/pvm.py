"""The PVM engine: the controller is a PVM task, and every host of the virtual machine has another.

Works with the virtual machine that runs, or with one of its own. Agents come with their hosts, also
with those that are added while it runs, and a new one takes the place of one that has died alone.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from encamp.engines import libpvm
from encamp.engines.base import CONTROLLER, Arrival, Engine, Joined, Left
from encamp.engines.libpvm import HostInfo, PVMError
from encamp.engines.pvm_endpoint import (
    ADDED,
    ENDED,
    FRAME,
    PRINTED,
    TABLE,
    Line,
    Membership,
    PVMEndpoint,
    encode,
    enrol,
)
from encamp.engines.pvm_machine import Machine, find_machine, log_file
from encamp.errors import EngineFailed, EngineUnavailable
from encamp.wire import Buffer

_START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_PACKAGE = str(Path(__file__).parents[2])
"""Where agents find encamp if it is not installed there."""
_TRAVELS = ("PARALLEL_", "PYTHONPATH", "LD_LIBRARY_PATH")
"""How variables begin that agents on other hosts have as the controller has them."""
_VARIABLES = "ENCAMP_PVM_ENVIRONMENT"
_ENDS_WITHIN = 7.0
"""Seconds in which agents end by themselves: their slots have some to end."""
_ENDED_WITHIN = 2.0
_SILENT = 6.0
"""Seconds after which an agent that said nothing is not expected to end by itself."""
_LOOK = 0.05
_TAIL = 2000
_ALL_ADDED = 1 << 20
"""Hosts whose addition is told of."""

_memberships: list[Membership] = []
"""This process's, if it has one."""


def open_end(
    *,
    slots: int | None = None,
    hosts: Sequence[str] | None = None,
    machine: str | None = None,
    address: str | None = None,
    per_agent: int | None = None,
    python: str | None = None,
    restarts: int = 3,
    module: str = "encamp.agent",
) -> PVMEngine:
    """The controller's end, see `PVMEngine`.

    ``machine`` is ``"running"`` or ``"own"``, by default the one that runs if there is one;
    ``address`` is where the hosts of an own one reach this host, by default what its name stands
    for. Raises `EngineUnavailable` and `EngineFailed`.
    """
    if isinstance(hosts, str):
        hosts = [hosts]
    member = _member(machine, address or ("" if hosts else "localhost"))
    try:
        return PVMEngine(
            member, slots, list(hosts or ()), per_agent, python or sys.executable, restarts, module
        )
    except BaseException:
        if not member.ends:
            member.leave()
        raise


def join(arguments: Sequence[str]) -> PVMEndpoint:
    """The end of an agent that `PVMEngine` has spawned.

    ``arguments`` are its number, and whether it is on the controller's host (``here``). There it
    gets the controller's environment; elsewhere, what its host says itself comes first. Where only
    the controller has brought its host into the machine (``ours``), the daemon's log goes with it.
    """
    number, here = int(arguments[0]), arguments[1] == "here"
    variables = json.loads(os.environ.pop(_VARIABLES, "{}"))
    log = log_file()
    if arguments[1] == "ours":
        atexit.register(partial(log.unlink, missing_ok=True))
    member = enrol(Machine({"PVM_TMP": os.environ.get("PVM_TMP", "/tmp")}))  # noqa: S108
    for name in [name for name in os.environ if name.startswith("PVM")]:
        del os.environ[name]
    os.environ.update({k: v for k, v in variables.items() if here or k not in os.environ})
    end = PVMEndpoint(member, number)
    controller = libpvm.parent()
    if controller is None:
        raise EngineFailed("pvm", "it was not spawned by a controller")
    with member.lock:
        libpvm.notify(libpvm.TASK_EXIT, ENDED, [controller])
        member.say_hello(end.line(CONTROLLER, controller))
    return end


def _member(which: str | None, address: str) -> Membership:
    """This process's membership; there can be one at a time, which all of its clusters share."""
    if _memberships:
        member = _memberships[0]
        if member.ends and not member.failure and member.process == os.getpid():
            own = member.machine.own
            if which == ("running" if own else "own"):
                why = f"this process is in {'its own' if own else 'the running'} virtual machine"
                raise EngineUnavailable("pvm", why, "close its other clusters first")
            return member
        _memberships.clear()
    machine = find_machine(which, address)
    try:
        _memberships.append(enrol(machine))
    except EngineFailed:
        machine.close()
        raise
    return _memberships[0]


@dataclass
class _Agent:
    """An agent; ``sentinel`` is a descriptor of its process, pidfd_open(2), if that is ``here``."""

    number: int
    tid: int
    host: HostInfo
    here: bool
    joined: bool = False
    sentinel: int = -1
    said: bytes = b""

    @property
    def why(self) -> str:
        """What to say of its end."""
        last = self.said.decode(errors="replace").strip().splitlines()[-1:]
        return f"its PVM task on {self.host.name} ended{': ' if last else ''}{''.join(last)[:300]}"


class PVMEngine(PVMEndpoint, Engine):
    """The controller's end, as one PVM task.

    ``slots`` work in all, by default as many as the hosts have cores: ``per_agent`` in each agent,
    by default in one agent on each host. ``hosts`` are those to work on, added to the machine where
    they are not in it; by default all that are. An agent that dies alone is started again,
    ``restarts`` times. ``python`` is the interpreter on all hosts, ``module`` the agent's program.

    Frames are sealed, since daemons take packets from any program that knows how to write them.
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
        if hosts:
            with member.lock:
                member.machine.add(hosts)
        super().__init__(member, CONTROLLER)
        self._only = {host.split()[0] for host in hosts}
        self._python, self._restarts, self._module = python, restarts, module
        self._orders = b""
        self._agents: dict[int, _Agent] = {}
        self._numbers = 0
        self._ended: list[_Agent] = []
        self._refused: list[str] = []
        self._look = self._stopped = False
        with member.lock:
            self._share(slots, per_agent)

    def _share(self, slots: int | None, per_agent: int | None) -> None:
        """Decide how many agents of how many slots each host has."""
        hosts = self.machine_hosts()
        if not hosts:
            raise EngineFailed(self.name, "none of the hosts is in the virtual machine")
        share, more = divmod(slots or 0, len(hosts))
        self.slots_per_agent = per_agent or (0 if slots is None else share if not more else 1)
        wanted = [share + (number < more) for number in range(len(hosts))]
        per = self.slots_per_agent
        counts = [1 if slots is None else -(-want // per) for want in wanted]
        self._counts = {host.tid: count for host, count in zip(hosts, counts, strict=True)}
        self._known = set(self._counts)
        self.agents = sum(counts)

    def machine_hosts(self) -> list[HostInfo]:
        """The hosts of the virtual machine, or those of them that are to be used."""
        with self._member.lock:
            try:
                hosts = libpvm.config()
            except PVMError as exc:
                raise EngineFailed(self.name, str(exc)) from exc
        return [host for host in hosts if not self._only or host.name in self._only]

    def start(self, orders: bytes) -> None:
        """See `Engine.start`; agents are under way when it returns."""
        self._orders = orders
        with self._member.lock:
            libpvm.setopt(libpvm.OUTPUT_TID, self._member.tid)
            libpvm.setopt(libpvm.OUTPUT_CODE, PRINTED)
            libpvm.notify(libpvm.HOST_ADD, ADDED, count=_ALL_ADDED)
            for host in self.machine_hosts():
                for _ in range(self._counts.get(host.tid, 0)):
                    self._spawn(host)
            self._introduce()
        if not self._agents:
            raise EngineFailed(self.name, f"no agent could be started: {'; '.join(self._refused)}")

    def _spawn(self, host: HostInfo) -> None:
        """Start an agent. Its orders wait for it."""
        self._numbers += 1
        number, here = self._numbers, libpvm.tidtohost(self._member.tid) == host.tid
        program = ["-P", "-c", _START, _PACKAGE, self._module, "pvm"]
        arguments = [*program, str(number), self._where(here)]
        with _exported(here):
            (tid,) = libpvm.spawn(self._python, arguments, libpvm.TASK_HOST, f"{host.name}:/")
        if tid < 0:
            self._refused.append(f"{self._python} on {host.name}: {libpvm.code_text(tid)}")
            self.agents -= 1
            return
        self._agents[number] = _Agent(number, tid, host, here)
        line = self.line(number, tid)
        line.called = True  # it says hello by itself
        line.waiting.append((FRAME, encode([self._orders])))
        libpvm.notify(libpvm.TASK_EXIT, ENDED, [tid])

    def _where(self, here: bool) -> str:
        return "here" if here else "ours" if self._member.machine.own else "there"

    def _introduce(self) -> None:
        """Have all agents know all."""
        table = encode({agent.number: agent.tid for agent in self._agents.values()})
        for number in self._agents:
            line = self._lines[number]
            line.waiting.append((TABLE, table))
            self._member.flush(line)

    # What the membership tells

    def met(self, line: Line, process: Sequence[int]) -> None:
        """An agent is there."""
        agent = self._agents.get(line.number)
        if agent is not None and not agent.joined:
            agent.joined = True
            if agent.here:
                with suppress(OSError):
                    agent.sentinel = os.pidfd_open(process[0])
            self.put(Joined(agent.number))

    def told(self, tag: int, values: Sequence[int], text: Buffer) -> None:
        """An agent has ended or printed something, or there are new hosts: seen to by `receive`."""
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
        """What has become of agents whose last frames have come, and of the machine's hosts."""
        ended, self._ended = self._ended, []
        told: list[Arrival] = [Left(agent.number, agent.why) for agent in ended if agent.joined]
        for agent in ended:
            self._forget(agent)
        self._look = False
        hosts = self.machine_hosts()
        new = [host for host in hosts if host.tid not in self._known]
        again = [agent.host for agent in ended if agent.joined and agent.host in hosts]
        before = self._numbers
        for host in (*new, *again[: self._restarts]):
            self._known.add(host.tid)
            self._spawn(host)
        self._restarts -= min(len(again), self._restarts)
        if self._numbers > before:
            self._introduce()
        elif not self._agents and not told:
            raise EngineFailed(self.name, ended[-1].why if ended else "it has no agents")
        return told

    def _forget(self, agent: _Agent) -> None:
        del self._agents[agent.number]
        if line := self._lines.get(agent.number):
            self.lost(line)
        if agent.sentinel >= 0:
            os.close(agent.sentinel)

    # The end

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._stopped = True
        if self._member.process != os.getpid() or self._closed:
            return
        self._wait(_ENDS_WITHIN, silent=_SILENT)
        self._wait(_ENDED_WITHIN)
        for agent in self._agents.values():
            self._end(agent)
        self._wait(_ENDED_WITHIN)
        self.close()

    def _wait(self, seconds: float, silent: float = math.inf) -> None:
        """Wait until all agents have ended, as far as they do, but those that have been silent."""
        deadline, heard = time.monotonic() + seconds, time.monotonic() - silent
        while time.monotonic() < deadline:
            lines = [self._lines[number] for number in self._agents if number in self._lines]
            if not any(line.heard > heard for line in lines):
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
        """The agents that have ended; without a daemon, those on other hosts are not waited for."""
        if self._member.failure:
            return [agent for agent in self._agents.values() if not _runs(agent.sentinel)]
        self._member.drain()
        self._member.sync()
        ended, self._ended = self._ended, []
        return ended

    def _end(self, agent: _Agent) -> None:
        """End an agent by force, as far as it is in reach."""
        if agent.sentinel >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(agent.sentinel, signal.SIGKILL)
        else:
            with self._member.lock, suppress(PVMError):
                libpvm.kill(agent.tid)


@contextmanager
def _exported(here: bool) -> Iterator[None]:
    """Have tasks that are spawned get the controller's environment, or some of it.

    Not as arguments, which everybody can read.
    """
    variables = {k: v for k, v in os.environ.items() if k.startswith(_TRAVELS) or here}
    before = os.environ.get("PVM_EXPORT")
    os.environ.update({_VARIABLES: json.dumps(variables), "PVM_EXPORT": _VARIABLES})
    try:
        yield
    finally:
        del os.environ[_VARIABLES], os.environ["PVM_EXPORT"]
        if before is not None:
            os.environ["PVM_EXPORT"] = before


def _runs(sentinel: int) -> bool:
    return sentinel >= 0 and not select.select([sentinel], [], [], _LOOK)[0]
