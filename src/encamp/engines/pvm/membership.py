"""A process as a task of a virtual machine, and its connections to other tasks.

A process is one PVM task, whichever of its endpoints (`encamp.engines.pvm.endpoint`) sends: they
share the `Membership`. A pair of tasks has a *connection* over a direct route. A small frame is one
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
"""Tags of messages between endpoints."""
ENDED, ADDED, PRINTED = range(11, 14)
"""Tags of the daemons' messages."""

_HELD = 40 << 10
"""Unacknowledged bytes up to which another message can be sent without blocking.

A Unix-domain socket accepts more while at most a quarter of its buffer is used, unix(7).
"""
_BUFFER = 1 << 20
_SPARE = 12 << 10
_COST = 2 << 10
"""Bytes that a message takes there beside its contents."""
_FRAGMENT = 1 << 16
"""Bytes that libpvm allocates for every message: more would be returned to the kernel each time."""
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


class LocalEndpoint(Protocol):
    """An endpoint of this process, which may have several: one for each of its clusters."""

    number: int

    def put(self, arrival: Arrival) -> None:
        """Add to what this endpoint has received, whichever of them has read it."""

    def wake(self) -> None:
        """Make the descriptor readable."""

    def watch(self, fds: Sequence[int]) -> None:
        """Have the descriptor become readable when one of these does."""

    def learn(self, table: dict[int, int]) -> None:
        """Note the tasks of other agents."""

    def connected(self, connection: Connection, process: Sequence[int]) -> None:
        """A connection is open."""

    def connection(self, number: int, tid: int) -> Connection:
        """The connection to a task, new if there is none."""

    def told(self, tag: int, values: Sequence[int], text: Buffer) -> None:
        """A daemon reports that a task has ended."""


class Connection:
    """A connection to the task ``tid``, which has the number ``number`` in the engine's network."""

    def __init__(self, tid: int, number: int, endpoint: LocalEndpoint) -> None:
        self.tid, self.number, self.endpoint = tid, number, endpoint
        self.open = self.called = False
        self.given_up = False
        """Whether the engine has given up the agent, so that nothing waits for it."""
        self.waiting: deque[tuple[int, bytes | memoryview]] = deque()
        self.sent = self.taken = 0
        """Bytes that were sent, and how many of them the other task has acknowledged."""
        self.come = self.told = 0
        """Bytes that have arrived, and how many of them were acknowledged."""
        self.heard = time.monotonic()
        """When something arrived last."""
        self.sizes = bytearray()
        self.pieces: Pieces | None = None
        """The big frame that is arriving, or the last one, whose memory is used again."""


class Membership:
    """This process as a task of a virtual machine. ``lock`` is held for every call of libpvm."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.lock = machine, threading.RLock()
        self.process = os.getpid()
        self._left = False
        self.failure = ""
        """Why the machine is gone."""
        self.endpoints: list[LocalEndpoint] = []
        self.connections: dict[int, Connection] = {}
        self.stirred = False
        """Whether libpvm may have messages that no descriptor shows."""
        self.fds: list[int] = []
        """The descriptors that libpvm reads from."""
        self.held = _HELD
        with machine.known():
            self.tid = libpvm.mytid()
        libpvm.setopt(libpvm.AUTO_ERR, 0)
        libpvm.setopt(libpvm.FRAG_SIZE, _FRAGMENT)
        while libpvm.nrecv():
            pass  # messages that libpvm has kept of a machine that this process was in before

    # Sending

    def post(self, tid: int, tag: int, data: bytes | memoryview) -> None:
        """Send one message. An error means that the receiver, or the machine, is gone."""
        self.stirred = True
        try:
            if type(data) is bytes:
                libpvm.send(tid, tag, data)
            else:
                libpvm.send_from(tid, tag, libpvm.address_of(data), len(data))  # type: ignore[arg-type]
        except PVMError as exc:
            if exc.code == libpvm.SYS_ERR:
                self.fail(exc)

    def say_hello(self, connection: Connection) -> None:
        """Open the direct route to another task, which is listening."""
        before = libpvm.setopt(libpvm.ROUTE, libpvm.ROUTE_DIRECT)
        self.post(connection.tid, HELLO, encode([connection.endpoint.number, os.getpid()]))
        libpvm.setopt(libpvm.ROUTE, before)
        connection.open = True

    def flush(self, connection: Connection) -> None:
        """Send what waits, as far as the other task has room; connect first if need be."""
        if not connection.open and not connection.called:
            connection.called = True
            self.post(connection.tid, CALL, encode([connection.endpoint.number]))
        while (
            connection.waiting
            and connection.open
            and connection.sent - connection.taken < self.held
        ):
            tag, data = connection.waiting[0]
            connection.sent += len(data) + _COST
            self.post(connection.tid, tag, data)
            connection.waiting.popleft()  # not before: another thread may look whether it is needed

    # Receiving

    def drain(self) -> None:
        """Handle the messages that have arrived, up to a number."""
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
        connection = self.connections.get(tid)
        if connection is not None:
            connection.heard = time.monotonic()
        if tag >= ENDED:
            self._told(tag, size)
        elif tag in (CALL, HELLO):
            self._hello(tid, connection, tag, unpack(size))
        elif connection is not None:
            self._arrived(connection, tag, size)

    def _arrived(self, connection: Connection, tag: int, size: int) -> None:
        if tag == TOOK:
            (taken,) = _TOOK.unpack(unpack(size))
            if connection.taken <= taken <= connection.sent:
                connection.taken = taken
                self.flush(connection)
            return
        if tag == FRAME:
            connection.endpoint.put(Frame(connection.number, [*_decode(unpack(size))]))
        elif tag == PIECE:
            if connection.pieces is not None and connection.pieces.fill(size):
                connection.endpoint.put(Frame(connection.number, connection.pieces.parts()))
        elif tag == TABLE:
            connection.endpoint.learn(_decode_table(unpack(size)))
        else:
            connection.sizes += unpack(size)
            if tag == SIZES or len(connection.sizes) > MOST_SIZES:
                self._begin(connection)
        connection.come += size + _COST
        if connection.come - connection.told > _HELD // 2:
            connection.told = connection.come
            self.post(connection.tid, TOOK, _TOOK.pack(connection.come))

    def _begin(self, connection: Connection) -> None:
        """Prepare for the pieces of a big frame."""
        said, connection.sizes = connection.sizes, bytearray()
        connection.pieces = Pieces(sizes_in(said))
        if connection.pieces.complete:
            connection.endpoint.put(Frame(connection.number, connection.pieces.parts()))

    def _hello(self, tid: int, connection: Connection | None, tag: int, data: bytearray) -> None:
        number, *process = _decode_call(data) if tag == CALL else _decode_hello(data)
        if connection is None:
            connection = self._stranger(tid, number)
        if connection is None or connection.number != number:
            return
        if tag == CALL:
            if not connection.open:
                self.say_hello(connection)
        else:
            connection.open = True
            self.fds = []  # one of them may be another one now
            self.sync()
            connection.endpoint.connected(connection, process)
        self.flush(connection)

    def _stranger(self, tid: int, number: int) -> Connection | None:
        """A connection to an agent that this agent did not know of."""
        agents = [endpoint for endpoint in self.endpoints if endpoint.number != CONTROLLER]
        return agents[0].connection(number, tid) if agents and number else None

    def _told(self, tag: int, size: int) -> None:
        self.fds = []
        if size < (8 if tag == PRINTED else 4):
            raise Unreadable
        values = unpack_ints(size // 4 if tag != PRINTED else 2)
        text = unpack(max(0, min(values[1], size))) if tag == PRINTED else bytearray()
        for endpoint in self.endpoints:
            endpoint.told(tag, values, text)

    # What there is

    def fail(self, exc: PVMError) -> None:
        """Note that the machine is gone, for all endpoints of this process."""
        self.failure = self.failure or str(exc)
        self.stirred = False
        for endpoint in self.endpoints:
            endpoint.wake()

    def sync(self) -> None:
        """Have all endpoints watch the current descriptors."""
        fds = libpvm.getfds()
        if fds != self.fds:
            self.fds = fds
            self.held = min(map(_prepared, fds))
            for endpoint in self.endpoints:
                endpoint.watch(fds)

    def leave(self) -> None:
        """Leave the machine: this process is no task any more. May be called twice.

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
