"""A controller outside the MPI job, and the gateway: rank 0 of the job, which relays frames.

    controller ◄── a Unix-domain socket ──► rank 0, the gateway ◄── MPI ──► ranks 1…N, the agents

Only processes of the same user that know the job's key can connect. Both ends only relay frames.
The controller waits for its socket, which uses no CPU; it can start another job when this one has
died, whose agents get new numbers.
"""

from __future__ import annotations

import fcntl
import math
import os
import select
import shlex
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from encamp import cores_and_memory
from encamp.engines.engine_interface import Arrival, Engine, Frame, Joined, Left
from encamp.engines.kit.cores import with_cores
from encamp.engines.kit.hostfile import HostLine, hosts_of, spread
from encamp.engines.kit.ssh_logins import shut_out
from encamp.engines.mpi.endpoint import MPIEndpoint
from encamp.engines.mpi.find_launcher import REMEDY, find_launcher
from encamp.engines.mpi.host_checks import HostChecks, command_by, remote_shell
from encamp.engines.mpi.launch_plan import LaunchPlan
from encamp.engines.mpi.launched_job import END, FRAME, GIVE_UP, HEAD, KEY, LEFT, READY, LaunchedJob
from encamp.engines.mpi.launcher_process import ended_by_intruder
from encamp.engines.mpi.leftovers import clear
from encamp.engines.mpi.mpi_variables import HOME, HYDRA_RANK, KEY_FILE, RANK
from encamp.errors import BadFrame, BadJob, EngineFailed, EngineUnavailable
from encamp.number_checks import duration, whole
from encamp.timeouts import CONNECTS, ENDS, GRACE
from encamp.wire.frames import Buffer, Parts, Reader, Writer

_SLOW = 2.5
"""Seconds after which the hosts are checked if a job has not started."""
_LOOK = 0.1
"""Seconds between two checks whether they have answered."""
_DEFERRED = tuple(
    getattr(signal, f"SIG{name}")
    for name in ["INT", "HUP", "QUIT", "TERM", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "XCPU"]
)
"""Signals that interrupt programs."""
_REFUSALS = 5
"""How often a job is started again if sshd has refused logins because there were too many."""

_INTRUSIONS = 20
"""How often a job is started again that another user has ended through MPICH's open port."""


def call_home() -> socket.socket | None:
    """Connect rank 0 to the controller that started the job; None in other ranks.

    Call this before using the environment for anything else: it removes the address from it.
    """
    home = os.environ.pop(HOME, "")
    if not home or _rank() != "0":
        return None
    key = Path(home).with_name(KEY_FILE).read_bytes()
    link = socket.socket(socket.AF_UNIX)
    link.connect(home)
    _end_with(link)
    Writer(link).send([HEAD.pack(KEY, os.getppid()), key])
    link.setblocking(False)
    return link


def _end_with(link: socket.socket) -> None:
    """Let the kernel end the launcher if the controller ends while this process waits inside MPI.

    The controller sends nothing until MPI has started. Hydra ends when this process does; Open MPI
    may continue without it.
    """
    ends = os.getpid() if HYDRA_RANK in os.environ else -os.getpgid(os.getppid())
    fcntl.fcntl(link, fcntl.F_SETOWN, ends)
    fcntl.fcntl(link, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(link, fcntl.F_SETFL, fcntl.fcntl(link, fcntl.F_GETFL) | os.O_ASYNC)


def _rank() -> str | None:
    return next((os.environ[name] for name in RANK if name in os.environ), None)


def relay(endpoint: MPIEndpoint, link: socket.socket, remains: Sequence[str]) -> None:
    """Relay frames until the controller ends or asks to stop; then leave, which ends the agents."""
    fcntl.fcntl(link, fcntl.F_SETFL, fcntl.fcntl(link, fcntl.F_GETFL) & ~os.O_ASYNC)
    reader, writer = Reader(link), Writer(link)
    with link, suppress(OSError, EOFError, BadFrame):
        writer.send([HEAD.pack(READY, endpoint.ranks - 1), msgspec.json.encode(remains)])
        while True:
            for arrival in endpoint.receive():
                _relay_to_controller(writer, arrival)
            readable, writable, _ = select.select(
                [link], [link] if writer.waiting else [], [], endpoint.patience()
            )
            if writable:
                writer.flush()
            if readable and not _relay_to_ranks(endpoint, reader.read()):
                break
    endpoint.close()


def _relay_to_controller(writer: Writer, arrival: Arrival) -> None:
    if isinstance(arrival, Frame):
        writer.send([HEAD.pack(FRAME, arrival.sender), *arrival.parts])
    elif isinstance(arrival, Left):
        writer.send([HEAD.pack(LEFT, arrival.agent), arrival.why.encode()])


def _relay_to_ranks(endpoint: MPIEndpoint, messages: list[Parts]) -> bool:
    for parts in messages:
        kind, number = HEAD.unpack(parts[0])
        if kind == END:
            return False
        if kind == GIVE_UP:
            endpoint.give_up(number)
        else:
            endpoint.send(number, parts[1:])
    return True


class LaunchedMPI(Engine):
    """The controller's endpoint if the engine starts the MPI job itself.

    ``slots`` is the number of agents, by default that of this host's cores or the hosts' slots.
    ``hosts`` are names like ``"node1"`` or ``"node1:4"``, or come from a ``hostfile`` of either
    MPI; ``rsh_agent`` is the command that the launcher uses to reach them, instead of ``ssh``.
    ``launcher`` is the path of an ``mpiexec``, ``mpi`` the MPI that it must belong to. If the job,
    or all of its agents, has died, it is started again on the hosts that answer, at most
    ``restarts`` times, not counting jobs that another user has ended through MPICH's open port.
    ``module`` is the agent's program.
    """

    name = "mpi"
    slots_per_agent = 1

    def __init__(
        self,
        *,
        slots: int | None = None,
        hosts: Sequence[str] | str | None = None,
        hostfile: str | os.PathLike[str] | None = None,
        rsh_agent: str | None = None,
        launcher: str | os.PathLike[str] | None = None,
        mpi: str | None = None,
        restarts: int = 3,
        start_timeout: float = 60.0,
        module: str = "encamp.agent",
    ) -> None:
        if find_spec("mpi4py") is None:
            raise EngineUnavailable(self.name, "mpi4py is not installed", REMEDY)
        if slots is not None:
            slots = whole("slots", slots, 1)
        path = str(launcher) if isinstance(launcher, os.PathLike) else launcher
        _check_words(rsh_agent=rsh_agent, launcher=path, mpi=mpi, module=module)
        named = hosts_of(self.name, hosts, hostfile)
        self._launcher, self._rsh_agent = find_launcher(path, mpi), rsh_agent
        _check_addresses(named, self._launcher.mpi)
        self._restarts, self._module = whole("restarts", restarts, 0), module
        self._start_timeout = duration("start_timeout", start_timeout)
        command = command_by(remote_shell(rsh_agent, self._launcher.mpi))
        within = self._start_timeout
        self._hosts = spread(named, slots) if slots else with_cores(named, command, within)
        total = sum(host.slots for host in self._hosts) or cores_and_memory.cores()
        self._slots = self.agents = slots or total
        self.private = not named
        self._poll = select.epoll()
        self._run: LaunchedJob | None = None
        self._deadline = 0.0
        self._base = 0
        self._refusals, self._intrusions = _REFUSALS, _INTRUSIONS
        self._orders = b""
        self._arrivals: list[Arrival] = []
        self._failure: EngineFailed | None = None
        self._lock = threading.RLock()

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        return self._run is not None and self._run.sending

    @property
    def pid(self) -> int | None:
        """Process id of the launcher; None if no job is running."""
        return None if self._run is None else self._run.launcher.pid

    def start(self, orders: bytes) -> None:
        """See `Engine.start`; waits until all ranks are there."""
        self._orders = orders
        self._launch()
        checks: HostChecks | None = None
        look = time.monotonic() + _SLOW if self._hosts else math.inf
        try:
            while self._run is not None and not self._run.ready:
                self._poll.poll(max(0.0, min(look, self._deadline) - time.monotonic()))
                self._arrivals += self.receive()
                if checks is None and time.monotonic() > look and self._run is not None:
                    checks = self._run.plan.check_hosts(CONNECTS)
                if checks is not None:
                    look = math.inf if checks.answered else time.monotonic() + _LOOK
                    self._give_up_if_unusable(self._run, checks)
        finally:
            if checks is not None:
                checks.end()
        if self._run is None:
            raise self._failure or EngineFailed(self.name, "it was interrupted while it started")

    def _give_up_if_unusable(self, run: LaunchedJob | None, checks: HostChecks) -> None:
        """Give up a job that does not start because of unusable hosts."""
        faults = checks.faults() if checks.answered else {}
        with self._lock:
            if faults and run is not None and run is self._run and not run.ready:
                run.end()
                self._run = None
                self._failure = EngineFailed(self.name, _sentence(faults))
                good = tuple(host for host in run.plan.hosts if host.name not in faults)
                replace(run.plan, hosts=good).check_hosts(CONNECTS).faults()  # cleans these hosts
                clear()

    def _launch(self) -> None:
        arguments, hosts = (str(self._base),), tuple(self._hosts)
        ranks = self._slots + 1
        plan = LaunchPlan(self._launcher, ranks, hosts, self._module, arguments, self._rsh_agent)
        with _signals_deferred():
            self._run = LaunchedJob(plan, self._base, self._poll)
            self._base += self._slots
            self._deadline = time.monotonic() + self._start_timeout

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        with self._lock:
            if self._run is not None and to in self._run.agents:
                self._run.send([HEAD.pack(FRAME, to), *parts])

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`; a job that has died is started again here."""
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
            if self._run is not None:
                try:
                    self._advance(self._run, arrivals)
                except EOFError:
                    self._lost(self._run, arrivals)
            elif self._failure is not None and not arrivals:
                raise self._failure
            return arrivals

    def _advance(self, run: LaunchedJob, arrivals: list[Arrival]) -> None:
        had = len(run.agents)
        for arrival in run.advance():
            arrivals.append(arrival)
            if isinstance(arrival, Joined):
                self.send(arrival.agent, [self._orders])
        if had and run.agents <= run.silent:
            raise EOFError
        if not run.ready and time.monotonic() > self._deadline:
            raise EOFError

    def give_up(self, agent: int) -> None:
        """See `Engine.give_up`; it can take a quarter of an hour until the MPI notices."""
        with self._lock:
            if self._run is not None and agent in self._run.agents:
                self._run.silent.add(agent)
                self._run.send([HEAD.pack(GIVE_UP, agent)])

    def _lost(self, run: LaunchedJob, arrivals: list[Arrival]) -> None:
        """Report the end of a job, and start the next one unless that would be in vain."""
        lost = sorted(run.agents)
        why = run.end(GRACE)
        self._run = None  # not earlier, so that `stop` ends it if this is interrupted
        arrivals += [Left(agent, why) for agent in lost]
        if not run.ready:
            clear()
        late = not run.ready and time.monotonic() > self._deadline
        faults = run.plan.check_hosts(ENDS if run.ready else CONNECTS).faults()
        intruded = self._intrusions > 0 and ended_by_intruder(why, ready=run.ready)
        if run.ready and (intruded or self._restarts > 0) and self._go_without(faults):
            self._intrusions -= intruded
            self._restarts -= not intruded
            self._launch()
            return
        refused = self._refusals > 0 and shut_out(why)
        if not (run.ready or late or faults) and (intruded or refused):
            self._intrusions -= intruded
            self._refusals -= not intruded
            self._launch()
            return
        limit = f"its ranks have not joined within {self._start_timeout:g} s; " if late else ""
        self._failure = EngineFailed(self.name, _sentence(faults) or limit + why)

    def _go_without(self, faults: Mapping[str, str]) -> bool:
        """Leave out unusable hosts; returns whether others are left."""
        if faults:
            self._hosts = [host for host in self._hosts if host.name not in faults]
            self._slots = sum(host.slots for host in self._hosts)
        return self._slots > 0

    def descriptors(self) -> Sequence[int]:
        """One descriptor, which stays the same for all jobs."""
        return () if self._poll.closed else (self._poll.fileno(),)

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        if self._arrivals or self._failure is not None:
            return 0
        run = self._run
        if run is not None and run.silent and run.agents <= run.silent:
            return 0
        return max(0.0, self._deadline - time.monotonic()) if run and not run.ready else None

    def stop(self) -> None:
        """See `Engine.stop`."""
        with self._lock:
            run, self._run = self._run, None
            if run is not None:
                run.end()
                if not run.ready:  # interrupted while it started
                    run.plan.check_hosts(CONNECTS).faults()
                    clear()
            self._poll.close()

    def close(self) -> None:
        """See `Endpoint.close`; the same as `stop`."""
        self.stop()


def _check_addresses(hosts: Sequence[HostLine], mpi: str) -> None:
    """Raise `EngineUnavailable` for addresses that an MPI's launcher would misunderstand."""
    if mpi == "mpich" and (six := [host.name for host in hosts if host.six]):
        why = f"MPICH's launcher takes no IPv6 addresses, such as {six[0]}"
        remedy = "give the host a name in /etc/hosts or ~/.ssh/config, or use Open MPI"
        raise EngineUnavailable("mpi", why, remedy)


def _check_words(**options: object) -> None:
    """Raise `BadJob` for options that are not strings, or commands with unbalanced quotes."""
    for name, value in options.items():
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise BadJob(name, f"must be a string, not {value!r}")
    try:
        shlex.split(str(options["rsh_agent"]))
    except ValueError as exc:
        why = "is not a command; write it as in a shell"
        raise BadJob(f"rsh_agent={options['rsh_agent']!r}", why) from exc


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer Ctrl-C, time limits and the like to the end of a block: their handlers may raise.

    So no process that was started is forgotten.
    """
    caught_signals: list[tuple[int, Any]] = []
    usual: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        usual = {number: signal.getsignal(number) for number in _DEFERRED}

    def hand_over() -> None:
        with ExitStack() as others:  # `others` calls all of them, even if one raises
            for number, frame in reversed(caught_signals):
                others.callback(usual[number], number, frame)

    with ExitStack() as stack:  # `stack` restores all of them, even if a handler raises
        stack.callback(hand_over)
        for number, handler in usual.items():
            if callable(handler):
                stack.callback(signal.signal, number, handler)
                signal.signal(number, lambda *caught: caught_signals.append(caught))
        yield


def _sentence(faults: Mapping[str, str]) -> str:
    """The faults of hosts as a sentence; empty if there are none."""
    return "; ".join(f"the host {name!r} {fault}" for name, fault in faults.items())
