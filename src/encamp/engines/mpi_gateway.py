"""The controller outside of the MPI job, and the gateway: the job's rank 0, which speaks for it.

    controller ◄── a Unix-domain socket ──► rank 0, the gateway ◄── MPI ──► ranks 1…N, the agents

Only processes of the same user that know the key which the job was started with get in. Both only
pass frames on. The controller waits for its socket, so that it needs no CPU meanwhile; and it can
start another job when this one has died, whose agents have numbers of their own.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from secrets import token_bytes

import msgspec

from encamp.engines.base import Arrival, Endpoint, Engine, Frame, Joined, Left
from encamp.engines.mpi_endpoint import MPIEndpoint
from encamp.engines.mpi_launch import (
    END_WITHIN,
    HOME,
    REMEDY,
    Job,
    Plan,
    find_launcher,
    places,
    remains_here,
)
from encamp.errors import BadFrame, EngineFailed, EngineUnavailable
from encamp.wire import KEY_BYTES, Buffer, Parts, Reader, Writer

_KEY, _READY, _FRAME, _LEFT, _END = range(5)
_HEAD = struct.Struct("<Bq")
"""First part of every message on the socket: its kind, and an agent's number or a fact."""
_DRAIN_WITHIN = 2.0
_GONE_WITHIN = 2.0
"""Seconds in which a launcher ends when its job is lost."""
_LONGEST_PATH = 100
"""Bytes that the kernel allows for a socket's path (108), with a margin."""


def call_home() -> socket.socket | None:
    """Connect rank 0 with the controller that started the job; None elsewhere.

    Has to be called before the environment is used for anything else, since it takes the key away.
    """
    home = os.environ.pop(HOME, "")
    if not home or _rank() != "0":
        return None
    path, _, key = home.rpartition(":")
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)
    Writer(link).send([_HEAD.pack(_KEY, os.getppid()), bytes.fromhex(key)])
    link.setblocking(False)
    return link


def _rank() -> str | None:
    return os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))


def relay(endpoint: MPIEndpoint, link: socket.socket) -> None:
    """Be the gateway until the controller ends it or is gone; then leave, which ends the agents."""
    reader, writer = Reader(link), Writer(link)
    with link, suppress(OSError, EOFError, BadFrame):
        remains = msgspec.json.encode(remains_here(os.getppid()))
        writer.send([_HEAD.pack(_READY, endpoint.ranks - 1), remains])
        while True:
            for arrival in endpoint.receive():
                _pass_out(writer, arrival)
            readable, writable, _ = select.select(
                [link], [link] if writer.waiting else [], [], endpoint.patience()
            )
            if writable:
                writer.flush()
            if readable and not _pass_in(endpoint, reader.read()):
                break
    endpoint.close()


def _pass_out(writer: Writer, arrival: Arrival) -> None:
    if isinstance(arrival, Frame):
        writer.send([_HEAD.pack(_FRAME, arrival.sender), *arrival.parts])
    elif isinstance(arrival, Left):
        writer.send([_HEAD.pack(_LEFT, arrival.agent), arrival.why.encode()])


def _pass_in(endpoint: Endpoint, messages: list[Parts]) -> bool:
    for parts in messages:
        kind, number = _HEAD.unpack(parts[0])
        if kind == _END:
            return False
        endpoint.send(number, parts[1:])
    return True


class _Door:
    """Where a new job's rank 0 calls: a socket in a folder that is nobody else's."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="encamp-mpi-", dir=_short_folder())
        self.folder = Path(self._folder.name)
        self._key = token_bytes(KEY_BYTES)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.folder / "s"))
        self.socket.listen(1)
        self.socket.setblocking(False)
        self.home = f"{self.folder / 's'}:{self._key.hex()}"

    def accept(self) -> socket.socket | None:
        """The socket of whoever calls, to be asked for the key; None if nobody does."""
        try:
            link, _ = self.socket.accept()
        except BlockingIOError:
            return None
        link.setblocking(False)
        return link

    def admits(self, parts: Parts) -> bool:
        """Whether a first message shows the key."""
        return len(parts) == 2 and hmac.compare_digest(bytes(parts[1]), self._key)

    def close(self) -> None:
        """Nobody can call any more; may be called twice."""
        self.socket.close()
        self._folder.cleanup()


def _short_folder() -> str | None:
    longest = len(os.fsencode(tempfile.gettempdir())) + len("/encamp-mpi-12345678/s")
    return None if longest < _LONGEST_PATH else "/tmp"  # noqa: S108


class _Run:
    """One job, from its start on: it calls, shows the key, is ready, and at last is gone.

    Without threads and without waiting: ``poll`` is readable when `advance` has something to do.
    """

    def __init__(self, plan: Plan, base: int, poll: select.epoll) -> None:
        self._poll, self._base = poll, base
        self._door = _Door()
        self._link: socket.socket | None = None
        self._admitted = False
        self.sending = False
        """Whether there is something that the gateway has not taken yet."""
        self.agents: set[int] = set()
        self.ready = False
        try:
            self.job = Job(plan, self._door.folder, self._door.home)
        except OSError as exc:
            self._door.close()
            raise EngineUnavailable("mpi", str(exc), "check the launcher") from exc
        poll.register(self._door.socket, select.EPOLLIN)
        poll.register(self.job.sentinel, select.EPOLLIN)

    def send(self, message: Sequence[Buffer]) -> None:
        """Send to the gateway, if it is there."""
        if self._link is not None and self.ready:
            with suppress(OSError):  # `advance` finds out that it is gone
                self._writer.send(message)
                self._note_writing()

    def _note_writing(self) -> None:
        if self._link is not None and self._writer.waiting != self.sending:
            self.sending = self._writer.waiting
            events = select.EPOLLIN | (select.EPOLLOUT if self.sending else 0)
            self._poll.modify(self._link, events)

    def advance(self) -> list[Arrival]:
        """What has come. Raises `EOFError` if the job is gone."""
        over = self.job.ended  # looked at before what is left in the socket is read
        arrivals: list[Arrival] = []
        try:
            for parts in self._messages():
                self._take(parts, arrivals)
        except (EOFError, OSError, BadFrame, struct.error):
            over = True
        if over and not arrivals:
            raise EOFError
        return arrivals

    def _messages(self) -> list[Parts]:
        if self._link is None:
            self._link = self._door.accept()
            if self._link is None:
                return []
            self._reader, self._writer = Reader(self._link), Writer(self._link)
            self._poll.register(self._link, select.EPOLLIN)
        if self.sending:
            with suppress(OSError):  # what has come already is read nevertheless
                self._writer.flush()
            self._note_writing()
        return self._reader.read()

    def _take(self, parts: Parts, arrivals: list[Arrival]) -> None:
        kind, number = _HEAD.unpack(parts[0])
        if not self._admitted:
            if not self._door.admits(parts):
                raise BadFrame("it does not show the key")
            self._admitted = True
            self._poll.unregister(self._door.socket)
            self._door.close()
        elif kind == _FRAME:
            arrivals.append(Frame(number, parts[1:]))
        elif kind == _LEFT:
            self.agents.discard(number)
            arrivals.append(Left(number, bytes(parts[1]).decode()))
        elif kind == _READY:
            self.ready = True
            self.job.remains = msgspec.json.decode(parts[1], type=list[str])
            self.agents = {self._base + rank for rank in range(1, number + 1)}
            arrivals += [Joined(agent) for agent in sorted(self.agents)]

    def end(self, within: float = END_WITHIN) -> str:
        """Have the job end, and tell how it did; nothing is left of it afterwards."""
        self.send([_HEAD.pack(_END, 0)])
        self._drain()
        self.job.end(within if self.ready else 0)
        why = self.job.why()
        for watched in (self._link, self.job.sentinel, self._door.socket):
            if watched is not None:
                with suppress(OSError, ValueError):
                    self._poll.unregister(watched)
        if self._link is not None:
            self._link.close()
        self._door.close()
        self.job.close()
        return why

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_WITHIN
        link = self._link
        with suppress(OSError):
            while link is not None and self.sending and time.monotonic() < deadline:
                select.select([], [link], [], _DRAIN_WITHIN)
                self._writer.flush()
                self._note_writing()


class LaunchedMPI(Engine):
    """The controller's end where the engine starts the MPI job by itself.

    ``slots`` ranks work, by default as many as this host has cores or the ``hostfile`` has places;
    ``launcher`` is the path of an ``mpiexec``, ``mpi`` says of which MPI it has to be. When a job
    has died as a whole, or all of its agents, it is started again, ``restarts`` times. ``module``
    is the agent's program.
    """

    name = "mpi"
    slots_per_agent = 1

    def __init__(
        self,
        *,
        slots: int | None = None,
        hostfile: str | os.PathLike[str] | None = None,
        launcher: str | None = None,
        mpi: str | None = None,
        restarts: int = 3,
        start_within: float = 60.0,
        module: str = "encamp.agent",
    ) -> None:
        if find_spec("mpi4py") is None:
            raise EngineUnavailable(self.name, "mpi4py is not installed", REMEDY)
        self._hostfile = None if hostfile is None else os.path.abspath(hostfile)
        there = places(self._hostfile)
        self._slots = self.agents = slots or there
        self._launcher = find_launcher(launcher, mpi)
        self._restarts, self._start_within, self._module = restarts, start_within, module
        self.private = hostfile is None
        self._poll = select.epoll()
        self._run: _Run | None = None
        self._deadline = 0.0
        self._base = 0
        self._orders = b""
        self._news: list[Arrival] = []
        self._failure: EngineFailed | None = None
        self._lock = threading.RLock()

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        return self._run is not None and self._run.sending

    @property
    def pid(self) -> int | None:
        """Process id of the launcher; None if no job is running."""
        return None if self._run is None else self._run.job.pid

    def start(self, orders: bytes) -> None:
        """See `Engine.start`; waits until all ranks are there."""
        self._orders = orders
        self._launch()
        while self._run is not None and not self._run.ready:
            self._poll.poll(max(0.0, self._deadline - time.monotonic()))
            self._news += self.receive()
        if self._run is None:
            raise self._failure or EngineFailed(self.name, "it was stopped while it started")

    def _launch(self) -> None:
        arguments = (str(self._base),)
        plan = Plan(self._launcher, self._slots + 1, self._hostfile, self._module, arguments)
        self._run = _Run(plan, self._base, self._poll)
        self._base += self._slots
        self._deadline = time.monotonic() + self._start_within

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        with self._lock:
            if self._run is not None and to in self._run.agents:
                self._run.send([_HEAD.pack(_FRAME, to), *parts])

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`; a job that has died is started again here."""
        with self._lock:
            arrivals, self._news = self._news, []
            if self._run is not None:
                try:
                    self._advance(self._run, arrivals)
                except EOFError:
                    self._lost(self._run, arrivals)
            elif self._failure is not None and not arrivals:
                raise self._failure
            return arrivals

    def _advance(self, run: _Run, arrivals: list[Arrival]) -> None:
        had = len(run.agents)
        for arrival in run.advance():
            arrivals.append(arrival)
            if isinstance(arrival, Joined):
                self.send(arrival.agent, [self._orders])
        if had and not run.agents:
            raise EOFError
        if not run.ready and time.monotonic() > self._deadline:
            raise EOFError

    def _lost(self, run: _Run, arrivals: list[Arrival]) -> None:
        """Tell what became of a job, and start the next one unless that would be in vain."""
        self._run = None
        lost = sorted(run.agents)
        why = run.end(_GONE_WITHIN)
        arrivals += [Left(agent, why) for agent in lost]
        if run.ready and self._restarts > 0:
            self._restarts -= 1
            self._launch()
            return
        late = not run.ready and time.monotonic() > self._deadline
        limit = f"its ranks were not there within {self._start_within:g} s; " if late else ""
        self._failure = EngineFailed(self.name, limit + why)

    def descriptors(self) -> Sequence[int]:
        """One, whatever becomes of the job."""
        return () if self._poll.closed else (self._poll.fileno(),)

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        if self._news or self._failure is not None:
            return 0
        run = self._run
        return max(0.0, self._deadline - time.monotonic()) if run and not run.ready else None

    def stop(self) -> None:
        """See `Engine.stop`."""
        with self._lock:
            run, self._run = self._run, None
            if run is not None:
                run.end()
            self._poll.close()

    def close(self) -> None:
        """See `Endpoint.close`; the same as `stop`."""
        self.stop()
