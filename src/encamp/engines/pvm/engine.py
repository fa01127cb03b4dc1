"""The PVM engine: the controller is a PVM task, and every host of the virtual machine has an agent.

It uses a running virtual machine, or starts one. Agents join with their hosts, including hosts that
are added later, and an agent that dies alone is replaced. Calls and messages go over the mesh.
"""

from __future__ import annotations

import select
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from encamp import slurm
from encamp.engines.engine_interface import Arrival, Frame
from encamp.engines.kit.hostfile import hosts_in
from encamp.engines.kit.mesh.addresses import address_towards, addresses_here, is_loopback
from encamp.engines.kit.mesh.agent import MeshAgent
from encamp.engines.kit.mesh.certificate import load_early
from encamp.engines.kit.mesh.control_messages import Address
from encamp.engines.kit.mesh.engine import ExpectedAgent, MeshEngine
from encamp.engines.kit.mesh.tls_connection import TLSConnection
from encamp.engines.kit.own_interpreter import PACKAGE, START, interpreter_flags, python_here
from encamp.engines.kit.start_agents import Spec
from encamp.engines.pvm import libpvm
from encamp.engines.pvm.add_hosts import add_hosts
from encamp.engines.pvm.add_hosts_process import remove_log
from encamp.engines.pvm.agent import ORDER, Order, join_by_order
from encamp.engines.pvm.host_names import addresses_in, first_words, host_names
from encamp.engines.pvm.libpvm import HostInfo, PVMError
from encamp.engines.pvm.membership import ADDED, ENDED, PRINTED, Membership, own_membership
from encamp.engines.pvm.sent_variables import variables_for
from encamp.errors import BadJob, EngineFailed
from encamp.number_checks import whole
from encamp.timeouts import GRACE
from encamp.wire.wait_for_descriptor import readable

_HERE = "127.0.0.1"
_LOOK = 0.05
_TAIL = 2000
_ALL_ADDED = 1 << 20
"""Number of added hosts about which PVM's notification is requested."""


@dataclass(eq=False)
class _Task:
    """The PVM task of an agent, until PVM reports its end, and its last output."""

    tid: int
    agent: ExpectedAgent
    host: HostInfo
    output: bytes = b""
    again: bool = False
    """Whether another agent replaces it after its end."""
    replaced: bool = False
    """Whether its host was added again, so that it has other agents."""

    @property
    def why(self) -> str:
        """Why it has ended."""
        last = self.output.decode(errors="replace").strip().splitlines()[-1:]
        after = ": " if last else ""
        lacks = "ModuleNotFoundError" in "".join(last)
        what = "; install encamp for that Python there, or set python=…" if lacks else ""
        return f"its PVM task ended{after}{''.join(last)[:300]}{what}"


class PVMEngine(MeshEngine):
    """The controller's end; this process is a PVM task.

    ``slots`` is the total number of slots, by default that of the hosts' cores; an agent has at
    most ``per_agent`` of them, by default all of its host. ``hosts`` are the hosts to use, which
    are added to the machine if need be; by default all hosts of the machine. An agent that dies
    alone is started again, at most ``restarts`` times. ``python`` is the interpreter on all hosts,
    ``module`` the agent's program.
    """

    key_in_clear = True

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
        super().__init__("pvm", restarts)
        self._member = member
        self._python, self._module = python, module
        self._tasks: dict[int, _Task] = {}
        self._only = first_words(hosts)
        self._addresses = addresses_in(hosts)
        """Addresses of hosts that the user has given."""
        self._before: set[int] = set()
        """The hosts of this process's machine at the start; those that others add are used, too."""
        self._known_hosts: set[int] = set()
        self._shares: dict[str, list[int]] = {}
        """Host → slots of each of its agents; 0 for as many as it has cores."""
        try:
            there = add_hosts(member.machine, hosts) if hosts else set()
            member.engines.append(self)
            self._poll.register(member.fd, select.EPOLLIN)
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
        share, more = divmod(slots or 0, len(hosts))
        for number, host in enumerate(hosts):
            wanted = share + (number < more)
            self._shares[host.name] = _agents(None if slots is None else wanted, per_agent)
        self._usual = _agents(None if slots is None else max(1, share), per_agent)

    def one_slot_each(self) -> None:
        """See `Engine.one_slot_each`; without a number of slots it is one on each host."""
        self._shares = {host: [1] * sum(max(1, n) for n in s) for host, s in self._shares.items()}
        self._usual = [1] * sum(max(1, n) for n in self._usual)

    # Hosts

    @property
    def tid(self) -> int:
        """The id of this process as a PVM task."""
        return self._member.tid

    def machine_hosts(self) -> list[HostInfo]:
        """The hosts of the virtual machine that are to be used."""
        only, before = self._only, self._before if self._member.machine.own else None
        return [
            host
            for host in self._all_hosts()
            if not only or host.name in only or (before and host.tid not in before)
        ]

    def host_of(self, agent: int) -> HostInfo | None:
        """The host of an agent that has joined."""
        known = self.known.get(agent)
        return known.where if known is not None and isinstance(known.where, HostInfo) else None

    def _all_hosts(self) -> list[HostInfo]:
        with self._member.asking():
            return libpvm.config()

    def add_hosts(self, hosts: Sequence[str]) -> None:
        """See `Engine.add_hosts`; hosts that were lost are removed from the machine first.

        If others have started the machine, only hosts that are added again are removed.
        """
        hosts = host_names(hosts)
        names = first_words(hosts)
        left = self._left()
        with self._member.lock:
            alive = {task.host.tid for task in self._tasks.values() if task not in left}
            lost = [task for task in left if task.host.tid not in alive]
            if not self._member.machine.own:
                lost = [task for task in lost if task.host.name in names]
            for task in lost:
                task.replaced = True
        there = add_hosts(self._member.machine, hosts, dead={task.host.name for task in lost})

        def added() -> None:
            self._addresses |= addresses_in(hosts)
            self._known_hosts -= {task.host.tid for task in lost}
            if self._only:
                self._only |= names | self._called(there)
            self._begin_on_new()

        self.call_soon(added)

    def _left(self) -> list[_Task]:
        """The tasks of agents that have left, but whose ends PVM does not report.

        Blocks for at most some seconds: PVM reports the ends of tasks on its present hosts
        immediately.
        """
        deadline = time.monotonic() + GRACE
        while True:
            self._member.drain()
            agents = ((task, task.agent) for task in list(self._tasks.values()))
            left = [task for task, one in agents if one.given_up or one.number not in self.known]
            if all(task.agent.given_up for task in left) or time.monotonic() >= deadline:
                return left
            time.sleep(_LOOK)

    # Agents

    def begin(self) -> None:
        """See `MeshEngine.begin`."""
        with self._member.asking():
            libpvm.setopt(libpvm.OUTPUT_TID, self._member.tid)
            libpvm.setopt(libpvm.OUTPUT_CODE, PRINTED)
            libpvm.notify(libpvm.HOST_ADD, ADDED, count=_ALL_ADDED)
        self.agents = sum(map(len, self._shares.values()))
        self._begin_on_new()

    def _begin_on_new(self) -> None:
        """Start agents on hosts that have joined the machine."""
        if self._stopping:
            return
        hosts = self.machine_hosts()
        known, self._known_hosts = self._known_hosts, {host.tid for host in hosts}
        new: list[tuple[ExpectedAgent, HostInfo]] = []
        for host in hosts:
            if host.tid not in known:
                self._remove_log(host)
                shares = self._shares.get(host.name, self._usual)
                new += ((agent, host) for agent in self.expect(host, host.name, shares))
        for agent, host in new:
            self._spawn(agent, host)

    def begin_again(self, agent: ExpectedAgent) -> None:
        """See `MeshEngine.begin_again`; after PVM's report of the end, in case the host is lost."""
        task = next((task for task in list(self._tasks.values()) if task.agent is agent), None)
        if task is None:
            self._replace(agent)
        else:
            task.again = True

    def _replace(self, agent: ExpectedAgent) -> None:
        if self._stopping or self._member.failure:
            return
        for host in self.machine_hosts():
            if host == agent.where:
                for new in self.expect_again(agent):
                    self._spawn(new, host)

    def _spawn(self, agent: ExpectedAgent, host: HostInfo) -> None:
        """Start an agent, and send its order."""
        program = [*interpreter_flags(), "-P", "-c", START, PACKAGE, self._module, "pvm"]
        with self._member.asking():
            here = libpvm.tidtohost(self._member.tid) == host.tid
            order = msgspec.msgpack.encode(self._order(agent, host, here=here))
            (tid,) = libpvm.spawn(self._python, program, libpvm.TASK_HOST, f"{host.name}:/")
            if tid >= 0:
                self._tasks[tid] = _Task(tid, agent, host)
                libpvm.notify(libpvm.TASK_EXIT, ENDED, [tid])
                libpvm.send(tid, ORDER, order)
        if tid < 0:
            self.could_not_join(agent.number, f"{self._python}: {libpvm.code_text(tid)}")

    def _order(self, agent: ExpectedAgent, host: HostInfo, *, here: bool) -> Order:
        dial, identity = self._dial(host, here=here), self._identity
        spec = Spec(
            agent.number, agent.slots, dial, identity.certificate, identity.key, 0, None, ()
        )
        ours = self._member.machine.own and not here
        return Order(spec, variables_for(here), here, ours)

    def _dial(self, host: HostInfo, *, here: bool) -> list[Address]:
        """Addresses at which a host may reach this one, the most probable first.

        PVM's name of this host stands for the address at which daemons reach it.
        """
        own = libpvm.tidtohost(self._member.tid)
        names = [one.name for one in libpvm.config() if one.tid == own]
        for name in (*names, self._addresses.get(host.name, host.name)):
            address = address_towards(name)
            if address and not is_loopback(address):
                return [self.listen(address)]
        return [self.listen(address) for address in ([_HERE] if here else addresses_here())]

    def _remove_log(self, host: HostInfo) -> None:
        """Remove the log of a host that others have added to this process's machine."""
        with self._member.asking():
            if self._member.machine.own and host.tid != libpvm.tidtohost(self._member.tid):
                remove_log(host)

    # What PVM reports

    def reported(self, tag: int, values: list[int], text: bytes) -> None:
        """See `Member.reported`."""
        task = self._tasks.get(values[0])
        if tag == ADDED:
            self.call_soon(self._begin_on_new)
        elif task is not None and tag == PRINTED:
            task.output = (task.output + text)[-_TAIL:]
        elif task is not None and tag == ENDED:
            del self._tasks[values[0]]
            self.call_soon(lambda: self._ended(task))

    def _ended(self, task: _Task) -> None:
        """Handle the end of a task; the connection of an agent that has joined ends on its own."""
        self.could_not_join(task.agent.number, task.why)
        if task.again and not task.replaced:
            self._replace(task.agent)

    def ready(self, fd: int) -> None:
        """See `MeshEndpoint.ready`: PVM reports something."""
        self._member.drain()

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`; without PVM's daemon no agent continues."""
        if self._member.stirred:
            self._member.drain()
        arrivals = super().receive()
        if self._member.failure and not self._stopping:
            frames = [arrival for arrival in arrivals if isinstance(arrival, Frame)]
            if not frames:
                raise EngineFailed(self.name, self._member.failure)
            return frames
        return arrivals

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        if self._member.stirred or self._member.failure:
            return 0
        return super().patience()

    def lost(self, number: int, link: TLSConnection, why: Exception) -> None:
        """See `MeshEndpoint.lost`; a host that has not answered counts as given up."""
        if not isinstance(why, EOFError | ConnectionError):
            self.give_up(number)
        super().lost(number, link, why)

    # The end

    def end_by_force(self, agents: Iterable[ExpectedAgent]) -> None:
        """See `MeshEngine.end_by_force`."""
        left = set(map(id, agents))
        self._kill([task for task in self._running() if id(task.agent) in left])

    def close(self) -> None:
        """See `Endpoint.close`; returns when the agents' processes have ended."""
        if self._closed:
            return
        self._stopping = True
        super().close()
        self._kill([task for task in self._running() if task.agent.link is None])
        for _ in range(2):
            self._wait()
            self._kill(self._running())
        self._drop_lost()
        self._member.leave(self)

    def _running(self) -> list[_Task]:
        """The tasks whose end PVM has yet to report."""
        return [task for task in list(self._tasks.values()) if not task.agent.given_up]

    def _kill(self, tasks: Iterable[_Task]) -> None:
        """End tasks by force, if they can be reached."""
        for task in tasks:
            with suppress(EngineFailed), self._member.asking():
                libpvm.kill(task.tid)

    def _wait(self) -> None:
        """Wait until PVM has reported the ends of all tasks, at most for some seconds."""
        deadline = time.monotonic() + GRACE
        while not self._member.failure and self._running() and time.monotonic() < deadline:
            readable(self._member.fd, _LOOK)
            self._member.drain()

    def _drop_lost(self) -> None:
        """Remove lost hosts; otherwise the machine would wait for them at its end."""
        if not self._member.machine.own or self._member.engines != [self]:
            return
        with suppress(EngineFailed), self._member.asking():
            here = libpvm.tidtohost(self._member.tid)
            for tid in {task.host.tid for task in self._tasks.values()} - {here}:
                with suppress(PVMError):
                    libpvm.fail_host(tid)


def _agents(slots: int | None, per_agent: int | None) -> list[int]:
    """The slots of each agent of a host with ``slots`` slots; None for as many as cores."""
    if slots is None:
        return [per_agent or 0]
    each = per_agent or max(1, slots)
    whole, rest = divmod(slots, each)
    return [each] * whole + [rest] * (rest > 0)


def open_endpoint(
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
    """The controller's endpoint, see `PVMEngine`.

    ``machine`` is ``"running"`` or ``"own"`` (a new one), by default the running one if there is
    one; ``address`` is this host's address for the hosts of a new one, by default that of its
    name. Without ``hosts``, those of Slurm's allocation are used. Raises `BadJob`,
    `EngineUnavailable` and `EngineFailed`.
    """
    if hosts is None and machine != "running" and (given := hosts_in(slurm.hosts())):
        hosts = [host.name for host in given]
        slots = sum(host.slots for host in given) if slots is None else slots
    named = [] if hosts is None else host_names(hosts)
    slots = None if slots is None else whole("slots", slots, 1)
    per_agent = None if per_agent is None else whole("per_agent", per_agent, 1)
    restarts = whole("restarts", restarts, 0)
    _check_texts(address=address, python=python, module=module)
    load_early()
    member = own_membership(machine, address, "" if named else "localhost")
    try:
        return PVMEngine(member, slots, named, per_agent, python or python_here(), restarts, module)
    except BaseException:
        member.leave_if_unused()
        raise


def _check_texts(**texts: object) -> None:
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise BadJob(name, f"must be a string, not {value!r}")


def join(_: Sequence[str]) -> MeshAgent:
    """The endpoint of an agent that `PVMEngine` has spawned."""
    return join_by_order()
