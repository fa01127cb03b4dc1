"""A process as a task of a virtual machine, and its lines to other tasks.

A process is one PVM task, whichever of its ends (`encamp.engines.pvm.endpoint`) sends: they share
the `Membership`. Every pair of tasks has a *line* over a direct route. A small frame is one
message, a msgpack array of its parts; a big one sends its parts' sizes first, then the parts in
pieces (`encamp.engines.pvm.pieces`). Any task of the machine may send messages, so unreadable ones
are dropped.

``pvm_send`` blocks until the receiver takes what the socket does not hold. So no more than that is
sent until the receiver has acknowledged it: nobody waits for a receiver that computes, is frozen or
has gone. For the same reason a task that wants a direct route *calls* through the daemons, and the
other task, which is listening then, opens it.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Protocol

import msgspec

from encamp.engines.base import CONTROLLER, Arrival, Frame
from encamp.engines.pvm import libpvm
from encamp.engines.pvm.libpvm import PVMError
from encamp.engines.pvm.machine import Machine
from encamp.engines.pvm.pieces import (
    MOST_SIZES,
    Pieces,
    Unreadable,
    sizes_in,
    unpack,
    unpack_ints,
)
from encamp.errors import EngineFailed
from encamp.wire.frames import Buffer

CALL, HELLO, TABLE, FRAME, SIZES, MORE_SIZES, PIECE, TOOK = range(1, 9)
"""Tags of messages between ends."""
ENDED, ADDED, PRINTED = range(11, 14)
"""Tags of what the daemons tell."""

_HELD = 40 << 10
"""Bytes behind which another message may follow to another end, whatever that does.

A Unix-domain socket takes more as long as a quarter of its buffer is used at most, unix(7).
"""
_BUFFER = 1 << 20
_SPARE = 12 << 10
_COST = 2 << 10
"""Bytes that a message takes there besides its own."""
_FRAGMENT = 1 << 16
"""Memory that libpvm takes for every message; much of it would go back and forth to the kernel."""
_AT_ONCE = 256
_LEFT_WITHIN = 1.0
"""Seconds that leaving may take, if hosts are dead."""

_TOOK = struct.Struct("<Q")
encode = msgspec.msgpack.Encoder().encode
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
_decode = msgspec.msgpack.Decoder(Annotated[list[bytes], msgspec.Meta(min_length=1)]).decode
_decode_table = msgspec.msgpack.Decoder(dict[_Number, _Number]).decode
_decode_call = msgspec.msgpack.Decoder(tuple[_Number]).decode
_decode_hello = msgspec.msgpack.Decoder(tuple[_Number, _Number]).decode
"""A number, and the id of its process."""


class End(Protocol):
    """One of the ends of this process: an engine's network may have several."""

    number: int

    def put(self, arrival: Arrival) -> None:
        """Have this end receive something, whoever finds it."""

    def wake(self) -> None:
        """Make the descriptor readable."""

    def watch(self, fds: Sequence[int]) -> None:
        """Have the descriptor tell of these."""

    def learn(self, table: dict[int, int]) -> None:
        """Know the tasks of other agents."""

    def met(self, line: Line, process: Sequence[int]) -> None:
        """A direct line is there."""

    def line(self, number: int, tid: int) -> Line:
        """What is between this end and a task."""

    def told(self, tag: int, values: Sequence[int], text: Buffer) -> None:
        """A daemon says that a task has ended."""


class Line:
    """What is between this task and the task ``tid``, which is ``number`` for ``end``."""

    def __init__(self, tid: int, number: int, end: End) -> None:
        self.tid, self.number, self.end = tid, number, end
        self.open = self.called = False
        self.given_up = False
        """Whether nobody waits any more for what it takes."""
        self.waiting: deque[tuple[int, bytes | memoryview]] = deque()
        self.sent = self.taken = 0
        """Bytes that were sent, and what of that the other one took."""
        self.come = self.told = 0
        """Bytes that have come, and what of that the other one knows."""
        self.heard = time.monotonic()
        """When something came last."""
        self.sizes = bytearray()
        self.pieces: Pieces | None = None
        """The big frame that is coming, or the last one: memory that is held is at hand again."""


class Membership:
    """This process as a task of a virtual machine. ``lock`` is held for every call of libpvm."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.lock = machine, threading.RLock()
        self.process = os.getpid()
        self._left = False
        self.failure = ""
        """Why there is no machine any more."""
        self.ends: list[End] = []
        self.lines: dict[int, Line] = {}
        self.stirred = False
        """Whether libpvm may have messages that no descriptor tells of."""
        self.fds: list[int] = []
        """What libpvm reads from."""
        self.held = _HELD
        with machine.known():
            self.tid = libpvm.mytid()
        libpvm.setopt(libpvm.AUTO_ERR, 0)
        libpvm.setopt(libpvm.FRAG_SIZE, _FRAGMENT)
        while libpvm.nrecv():
            pass  # what libpvm has kept of a machine that this process was in before

    # Sending

    def post(self, tid: int, tag: int, data: bytes | memoryview) -> None:
        """Send one message. Errors but the loss of the machine are the receiver's being gone."""
        self.stirred = True
        try:
            if type(data) is bytes:
                libpvm.send(tid, tag, data)
            else:
                libpvm.send_from(tid, tag, libpvm.address_of(data), len(data))  # type: ignore[arg-type]
        except PVMError as exc:
            if exc.code == libpvm.SYS_ERR:
                self.fail(exc)

    def say_hello(self, line: Line) -> None:
        """Make the direct route to another task, which is listening."""
        before = libpvm.setopt(libpvm.ROUTE, libpvm.ROUTE_DIRECT)
        self.post(line.tid, HELLO, encode([line.end.number, os.getpid()]))
        libpvm.setopt(libpvm.ROUTE, before)
        line.open = True

    def flush(self, line: Line) -> None:
        """Send what waits, as far as the other one has room; ask for a line if there is none."""
        if not line.open and not line.called:
            line.called = True
            self.post(line.tid, CALL, encode([line.end.number]))
        while line.waiting and line.open and line.sent - line.taken < self.held:
            tag, data = line.waiting[0]
            line.sent += len(data) + _COST
            self.post(line.tid, tag, data)
            line.waiting.popleft()  # not before: another thread may look whether it is needed

    # Receiving

    def drain(self) -> None:
        """Take in all messages that are there, or many of them."""
        try:
            for _ in range(_AT_ONCE):
                buffer = libpvm.nrecv()
                if not buffer:
                    self.stirred = False
                    return
                try:
                    self._take(*libpvm.bufinfo(buffer))
                except (msgspec.DecodeError, struct.error, Unreadable):
                    continue
            self.stirred = True
        except PVMError as exc:
            self.fail(exc)

    def _take(self, size: int, tag: int, tid: int) -> None:
        line = self.lines.get(tid)
        if line is not None:
            line.heard = time.monotonic()
        if tag >= ENDED:
            self._told(tag, size)
        elif tag in (CALL, HELLO):
            self._hello(tid, line, tag, unpack(size))
        elif line is not None:
            self._in_line(line, tag, size)

    def _in_line(self, line: Line, tag: int, size: int) -> None:
        if tag == TOOK:
            (taken,) = _TOOK.unpack(unpack(size))
            if line.taken <= taken <= line.sent:
                line.taken = taken
                self.flush(line)
            return
        if tag == FRAME:
            line.end.put(Frame(line.number, [*_decode(unpack(size))]))
        elif tag == PIECE:
            if line.pieces is not None and line.pieces.fill(size):
                line.end.put(Frame(line.number, line.pieces.parts()))
        elif tag == TABLE:
            line.end.learn(_decode_table(unpack(size)))
        else:
            line.sizes += unpack(size)
            if tag == SIZES or len(line.sizes) > MOST_SIZES:
                self._begin(line)
        line.come += size + _COST
        if line.come - line.told > _HELD // 2:
            line.told = line.come
            self.post(line.tid, TOOK, _TOOK.pack(line.come))

    def _begin(self, line: Line) -> None:
        """A big frame is to come."""
        said, line.sizes = line.sizes, bytearray()
        line.pieces = Pieces(sizes_in(said))
        if line.pieces.complete:
            line.end.put(Frame(line.number, line.pieces.parts()))

    def _hello(self, tid: int, line: Line | None, tag: int, data: bytearray) -> None:
        number, *process = _decode_call(data) if tag == CALL else _decode_hello(data)
        if line is None:
            line = self._stranger(tid, number)
        if line is None or line.number != number:
            return
        if tag == CALL:
            if not line.open:
                self.say_hello(line)
        else:
            line.open = True
            self.fds = []  # one of them may be another one now
            self.sync()
            line.end.met(line, process)
        self.flush(line)

    def _stranger(self, tid: int, number: int) -> Line | None:
        """A line to an agent that this agent has not heard of yet."""
        agents = [end for end in self.ends if end.number != CONTROLLER]
        return agents[0].line(number, tid) if agents and number else None

    def _told(self, tag: int, size: int) -> None:
        self.fds = []
        if size < (8 if tag == PRINTED else 4):
            raise Unreadable
        values = unpack_ints(size // 4 if tag != PRINTED else 2)
        text = unpack(max(0, min(values[1], size))) if tag == PRINTED else bytearray()
        for end in self.ends:
            end.told(tag, values, text)

    # What there is

    def fail(self, exc: PVMError) -> None:
        """The machine is gone, for all ends of this process."""
        self.failure = self.failure or str(exc)
        self.stirred = False
        for end in self.ends:
            end.wake()

    def sync(self) -> None:
        """Have all ends watch the descriptors that there are now."""
        fds = libpvm.getfds()
        if fds != self.fds:
            self.fds = fds
            self.held = min(map(_prepared, fds))
            for end in self.ends:
                end.watch(fds)

    def leave(self) -> None:
        """Be no task any more, and let go of the machine. May be called twice.

        libpvm says goodbye on its direct routes, and would wait for hosts that are dead.
        """
        if self.process == os.getpid() and not self._left:
            self._left = True
            leaving = threading.Thread(target=_leave, name="encamp-pvm-leave", daemon=True)
            leaving.start()
            leaving.join(_LEFT_WITHIN)
            self.machine.close()


def enrol(machine: Machine) -> Membership:
    """Join a machine. Raises `EngineFailed` if that is not possible."""
    try:
        return Membership(machine)
    except PVMError as exc:
        raise EngineFailed("pvm", str(exc)) from exc


def _leave() -> None:
    with suppress(PVMError):
        libpvm.leave()


def _prepared(fd: int) -> int:
    """Have a socket hold much, and be nobody else's; how much may be in it before the next."""
    os.set_inheritable(fd, False)
    with socket.socket(fileno=os.dup(fd)) as link:
        if link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < _BUFFER:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        return max(_HELD, link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4 - _SPARE)
