"""A launched MPI job as its controller sees it: the socket to its rank 0, and how the job ends.

Controller and gateway both send messages whose first part is a head.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

import msgspec

from encamp.engines.engine_interface import Arrival, Frame, Joined, Left
from encamp.engines.mpi.launch_plan import LaunchPlan
from encamp.engines.mpi.launcher_process import LauncherProcess, ended_by_intruder
from encamp.engines.mpi.mpi_variables import KEY_FILE
from encamp.errors import BadFrame, EngineUnavailable
from encamp.timeouts import ALL_END, GRACE
from encamp.wire.frames import Buffer, Parts, Reader, Writer
from encamp.wire.seal import KEY_BYTES
from encamp.wire.wait_for_descriptor import writable

KEY, READY, FRAME, LEFT, GIVE_UP, END = range(6)
HEAD = struct.Struct("<Bq")
"""First part of every message on the socket: its kind, and a number, such as an agent's."""
_SILENT_WITHIN = 2.0, 0.5
"""Seconds that a job may take to end if it has lost agents, so that it cannot end properly."""
_LONGEST_PATH = 100
"""Bytes that the kernel allows for a socket's path (108), with a margin."""


class _Listener:
    """The socket to which a new job's rank 0 connects, in a private folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="encamp-mpi-", dir=_short_folder())
        self.folder = Path(self._folder.name)
        self._key = token_bytes(KEY_BYTES)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.folder / "s"))
        self.socket.listen(1)
        self.socket.setblocking(False)
        self._leave_key()
        self.home = str(self.folder / "s")

    def _leave_key(self) -> None:
        """Write the key to a private file: others may see the variables of an MPI job."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(self.folder / KEY_FILE, flags, 0o600)
        try:
            os.write(fd, self._key)
        finally:
            os.close(fd)

    def accept(self) -> socket.socket | None:
        """A new connection, which has yet to send the key; None if there is none."""
        try:
            link, _ = self.socket.accept()
        except BlockingIOError:
            return None
        link.setblocking(False)
        return link

    def admits(self, parts: Parts) -> bool:
        """Whether a first message contains the key."""
        return len(parts) == 2 and hmac.compare_digest(bytes(parts[1]), self._key)

    def close(self) -> None:
        """Accept no connections any more. Idempotent."""
        self.socket.close()
        self._folder.cleanup()


def _short_folder() -> str | None:
    longest = len(os.fsencode(tempfile.gettempdir())) + len("/encamp-mpi-12345678/s")
    return None if longest < _LONGEST_PATH else "/tmp"  # noqa: S108


class LaunchedJob:
    """One job from its start: it connects, sends the key, is ready, and ends.

    Without threads and without waiting: ``poll`` is readable when `advance` has something to do.
    """

    def __init__(self, plan: LaunchPlan, base: int, poll: select.epoll) -> None:
        self._poll, self._base, self.plan = poll, base, plan
        self._listener = _Listener()
        self._link: socket.socket | None = None
        self._admitted = False
        self.sending = False
        """Whether there are messages that the gateway has not read."""
        self.agents: set[int] = set()
        self.silent: set[int] = set()
        """The agents that were given up."""
        self.ready = False
        try:
            self.launcher = LauncherProcess(plan, self._listener.folder, self._listener.home)
        except OSError as exc:
            self._listener.close()
            raise EngineUnavailable("mpi", str(exc), "check the launcher") from exc
        poll.register(self._listener.socket, select.EPOLLIN)
        poll.register(self.launcher.sentinel, select.EPOLLIN)

    def send(self, message: Sequence[Buffer]) -> None:
        """Send to the gateway, if it is connected."""
        if self._link is not None and self.ready:
            with suppress(OSError):  # `advance` notices its loss
                self._writer.send(message)
                self._note_writing()

    def _note_writing(self) -> None:
        if self._link is not None and bool(self._writer.waiting) != self.sending:
            self.sending = bool(self._writer.waiting)
            events = select.EPOLLIN | (select.EPOLLOUT if self.sending else 0)
            self._poll.modify(self._link, events)

    def advance(self) -> list[Arrival]:
        """Return what has arrived. Raises `EOFError` if the job has ended."""
        over = self.launcher.ended  # checked before the rest in the socket is read
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
            self._link = self._listener.accept()
            if self._link is None:
                return []
            self._reader, self._writer = Reader(self._link), Writer(self._link)
            self._poll.register(self._link, select.EPOLLIN)
        if self.sending:
            with suppress(OSError):  # what has arrived before is still read
                self._writer.flush()
            self._note_writing()
        return self._reader.read()

    def _take(self, parts: Parts, arrivals: list[Arrival]) -> None:
        kind, number = HEAD.unpack(parts[0])
        if not self._admitted:
            if not self._listener.admits(parts):
                raise BadFrame("it does not prove that it knows the key")
            self._admitted = True
            self._poll.unregister(self._listener.socket)
            self._listener.close()
        elif kind == FRAME:
            arrivals.append(Frame(number, parts[1:]))
        elif kind == LEFT:
            self.agents.discard(number)
            arrivals.append(Left(number, bytes(parts[1]).decode()))
        elif kind == READY:
            self.ready = True
            self.launcher.remains = msgspec.json.decode(parts[1], type=list[str])
            self.agents = {self._base + rank for rank in range(1, number + 1)}
            arrivals += [Joined(agent) for agent in sorted(self.agents)]

    def end(self, within: float = ALL_END) -> str:
        """End the job, and return how it ended; nothing of it is left afterwards."""
        self.send([HEAD.pack(END, 0)])
        self._drain()
        if self.silent:
            self.launcher.end(*_SILENT_WITHIN)
        else:
            self.launcher.end(within if self.ready else 0)
        why = self.launcher.why()
        if ended_by_intruder(why, ready=self.ready):
            why = f"a process outside the job has connected to MPICH's launcher, which ended; {why}"
        for watched in (self._link, self.launcher.sentinel, self._listener.socket):
            if watched is not None:
                with suppress(OSError, ValueError):
                    self._poll.unregister(watched)
        if self._link is not None:
            self._link.close()
        self._listener.close()
        self.launcher.close()
        return why

    def _drain(self) -> None:
        deadline = time.monotonic() + GRACE
        link = self._link
        with suppress(OSError):
            while link is not None and self.sending and time.monotonic() < deadline:
                writable(link, GRACE)
                self._writer.flush()
                self._note_writing()
