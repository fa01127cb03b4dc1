"""A process as a task of a virtual machine, and the lines that it has to other tasks.

A process is one PVM task, whichever of its ends (`encamp.engines.pvm_endpoint`) sends: the
`Membership` is shared. Every pair of tasks has a *line* by the direct route. A small frame is one
message, a msgpack array of its parts; a big one has its parts' sizes first, then the parts in
pieces.

``pvm_send`` waits until the receiver takes what the socket does not hold. So no more is sent than
that, until the receiver has said that it took it: nobody waits for one who computes, is frozen or
has gone. For the same reason who wants a direct route *calls* by way of the daemons, and the other
one, who is listening then, makes it.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from encamp.engines import libpvm
from encamp.engines.base import CONTROLLER, Frame
from encamp.engines.libpvm import PVMError
from encamp.engines.pvm_machine import Machine
from encamp.errors import EngineFailed
from encamp.wire import Parts

if TYPE_CHECKING:
    from encamp.engines.pvm_endpoint import PVMEndpoint

CALL, HELLO, TABLE, FRAME, SIZES, MORE_SIZES, PIECE, TOOK = range(1, 9)
"""Tags of messages between ends."""
ENDED, ADDED, PRINTED = range(11, 14)
"""Tags of what the daemons tell."""

SMALL = 1 << 13
"""Parts up to this size travel together."""
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
_decode = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_sizes = msgspec.msgpack.Decoder(list[int]).decode


class Line:
    """What is between this task and the task ``tid``, which is ``number`` for ``end``."""

    def __init__(self, tid: int, number: int, end: PVMEndpoint) -> None:
        self.tid, self.number, self.end = tid, number, end
        self.open = self.called = False
        self.waiting: deque[tuple[int, bytes | memoryview]] = deque()
        self.sent = self.taken = 0
        """Bytes that were sent, and what of that the other one took."""
        self.come = self.told = 0
        """Bytes that have come, and what of that the other one knows."""
        self.heard = time.monotonic()
        """When something came last."""
        self.sizes = bytearray()
        self.parts: Parts = []
        self.empty: deque[memoryview] = deque()


class Membership:
    """This process as a task of a virtual machine. ``lock`` is held for every call of libpvm."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.lock = machine, threading.RLock()
        self.process = os.getpid()
        self.failure = ""
        """Why there is no machine any more."""
        self.ends: list[PVMEndpoint] = []
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
            tag, data = line.waiting.popleft()
            line.sent += len(data) + _COST
            self.post(line.tid, tag, data)

    # Receiving

    def drain(self) -> None:
        """Take in all messages that are there, or many of them."""
        try:
            for _ in range(_AT_ONCE):
                buffer = libpvm.nrecv()
                if not buffer:
                    self.stirred = False
                    return
                self._take(*libpvm.bufinfo(buffer))
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
            self._hello(tid, line, tag, libpvm.unpack(size))
        elif line is not None:
            self._in_line(line, tag, size)

    def _in_line(self, line: Line, tag: int, size: int) -> None:
        if tag == TOOK:
            (line.taken,) = _TOOK.unpack(libpvm.unpack(size))
            self.flush(line)
            return
        if tag == FRAME:
            line.end.put(Frame(line.number, _decode(libpvm.unpack(size))))  # type: ignore[arg-type]
        elif tag == PIECE:
            self._fill(line, size)
        elif tag == TABLE:
            line.end.learn(msgspec.msgpack.decode(libpvm.unpack(size), type=dict[int, int]))
        else:
            line.sizes += libpvm.unpack(size)
            if tag == SIZES:
                self._begin(line)
        line.come += size + _COST
        if line.come - line.told > _HELD // 2:
            line.told = line.come
            self.post(line.tid, TOOK, _TOOK.pack(line.come))

    def _begin(self, line: Line) -> None:
        """Make room for a big frame: for its small parts together, and for each other one."""
        sizes, line.sizes = _decode_sizes(line.sizes), bytearray()
        small = memoryview(bytearray(sum(size for size in sizes if size <= SMALL)))
        big = [memoryview(bytearray(size)) for size in sizes if size > SMALL]
        line.empty.extend(view for view in (small, *big) if view)
        line.parts, start, rest = [], 0, iter(big)
        for size in sizes:
            line.parts.append(next(rest) if size > SMALL else small[start : start + size])
            start += size if size <= SMALL else 0
        if not line.empty:
            line.end.put(Frame(line.number, line.parts))

    def _fill(self, line: Line, size: int) -> None:
        if not line.empty or len(line.empty[0]) < size:
            return  # nothing of ours
        view = line.empty[0]
        libpvm.unpack_to(libpvm.address_of(view), size)
        if size < len(view):
            line.empty[0] = view[size:]
            return
        line.empty.popleft()
        if not line.empty:
            line.end.put(Frame(line.number, line.parts))

    def _hello(self, tid: int, line: Line | None, tag: int, data: bytearray) -> None:
        number, *process = msgspec.msgpack.decode(data, type=list[int])
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
        values = libpvm.unpack_ints(size // 4 if tag != PRINTED else 2)
        text = libpvm.unpack(max(0, values[1])) if tag == PRINTED else bytearray()
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
        """Be no task any more, and let go of the machine.

        libpvm says goodbye on its direct routes, and would wait for hosts that are dead.
        """
        if self.process == os.getpid():
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
