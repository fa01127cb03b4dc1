"""Frames: messages on a stream.

A message has a few parts, each of bytes: an envelope first, then payloads and large buffers, which
are neither joined nor pickled again. On a stream it begins with a head::

    2 bytes  b"eC"
    2 bytes  number of parts, little endian
    8 bytes  length of a part, for each
    the parts, one after the other
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

from encamp.errors import BadFrame

Buffer = bytes | bytearray | memoryview
Parts = list[Buffer]

MARK = 0xC1
"""The first byte of a short message; no frame's first part begins with it."""
MOST_PARTS = 0xFFFF
LONGEST = 1 << 40
"""Maximum number of bytes in one part."""
_MAGIC = b"eC"
_HEAD = struct.Struct("<2sH")
_SIZE = struct.Struct("<Q")
_READ = 1 << 16
"""Bytes to read at once; allocating much more would take long."""
_TURNS = 64
"""Reads from one socket before others have their turn."""
_BIG = 1 << 16
"""Messages from this size on are read directly into their own buffers."""
_TOGETHER = 1 << 14
"""Messages of few parts below this size are written as one buffer."""
_HEADS = [struct.Struct(f"<2sH{count}Q") for count in range(4)]
"""The heads of messages of few parts, by the number of parts."""
_SMALL = frozenset({bytes})
_AT_ONCE = 512
"""Buffers per system call; the kernel allows 1,024 (IOV_MAX)."""
_FD = struct.calcsize("i")
_ROOM_FOR_FDS = socket.CMSG_SPACE(4 * _FD)


def flat(part: Buffer) -> memoryview:
    """A view of a part as bytes, whatever its item type and shape."""
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")


def head(parts: Sequence[Buffer]) -> bytes:
    """The head of a message on a stream. Raises `BadFrame` for too many parts."""
    count = len(parts)
    if not 0 < count <= MOST_PARTS:
        raise BadFrame(f"it has {count} parts, not 1 to {MOST_PARTS}")
    sizes = map(size_of, parts)
    return struct.pack(f"<2sH{count}Q", _MAGIC, count, *sizes)


class Reader:
    """Reads messages from a non-blocking socket.

    Parts and messages are limited to ``longest`` bytes each. With ``descriptors``, received
    file descriptors are collected in ``received``.
    """

    def __init__(
        self, source: socket.socket, *, longest: int = LONGEST, descriptors: bool = False
    ) -> None:
        self._socket = source
        self._longest = longest
        self._rest = b""
        self._big: deque[memoryview] = deque()
        self._parts: Parts = []
        self._descriptors = descriptors
        self.received: deque[int] = deque()

    def read(self) -> list[Parts]:
        """The complete messages that have arrived; does not block.

        Leaves some for the next call if there are many, so that a fast sender does not keep others
        waiting. Raises `EOFError` at the stream's end, and `BadFrame`.
        """
        messages: list[Parts] = []
        try:
            for _ in range(_TURNS):
                if self._big:
                    if self._fill():
                        messages.append(self._parts)
                    continue
                data = self._receive() if self._descriptors else self._socket.recv(_READ)
                if not data:
                    raise EOFError
                self._split(self._rest + data if self._rest else data, messages)
                if len(data) < _READ and not self._big:
                    break
        except BlockingIOError:
            pass
        except (EOFError, ConnectionError):
            if messages:
                return messages  # the next call raises
            raise EOFError from None
        return messages

    def _receive(self) -> bytes:
        data, ancillary, _, _ = self._socket.recvmsg(_READ, _ROOM_FOR_FDS, socket.MSG_CMSG_CLOEXEC)
        if ancillary:
            self._collect(ancillary)
        return data

    def _collect(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array("i")
                numbers.frombytes(data[: len(data) - len(data) % _FD])
                self.received.extend(numbers)

    def _fill(self) -> bool:
        """Read more into the buffers of a big message; returns whether it is complete."""
        view = self._big[0]
        count = self._socket.recv_into(view)
        if not count:
            raise EOFError
        self._big[0] = view[count:]
        while self._big and not self._big[0]:
            self._big.popleft()
        return not self._big

    def _split(self, data: bytes, messages: list[Parts]) -> None:
        start, end = 0, len(data)
        while start + 4 <= end:
            magic, count = _HEAD.unpack_from(data, start)
            if magic != _MAGIC or not count:
                raise BadFrame("it does not begin as a frame does")
            body = start + 4 + 8 * count
            if body > end:
                break
            if count == 1:  # the most frequent case, done faster
                (size,) = _SIZE.unpack_from(data, start + 4)
                if body + size <= end and size <= self._longest:
                    messages.append([data[body : body + size]])
                    start = body + size
                    continue
            sizes = struct.unpack_from(f"<{count}Q", data, start + 4)
            total = sum(sizes)
            if total > self._longest:
                raise BadFrame(
                    f"it has {total} bytes, more than the {self._longest} that are allowed"
                )
            if body + total > end:
                if total >= _BIG:
                    self._begin_big(sizes, data[body:])
                    start = end
                break
            ends = list(accumulate(sizes, initial=body))
            messages.append([data[a:b] for a, b in pairwise(ends)])
            start = ends[-1]
        self._rest = data[start:]

    def _begin_big(self, sizes: Sequence[int], data: bytes) -> None:
        try:
            self._parts = [bytearray(size) for size in sizes]
        except MemoryError:
            raise BadFrame(f"there is not enough memory for its {sum(sizes)} bytes") from None
        position = 0
        for part in self._parts:
            here = data[position : position + len(part)]
            view = memoryview(part)
            view[: len(here)] = here
            position += len(here)
            if len(here) < len(part):
                self._big.append(view[len(here) :])


class Writer:
    """Writes messages to a non-blocking socket, and keeps what it does not accept yet."""

    def __init__(self, target: socket.socket) -> None:
        self._socket = target
        self.waiting: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        """Buffers that were not written yet, with the file descriptors to send with them."""
        self.count = 0
        """How many messages were passed to `send`."""

    def send(self, parts: Sequence[Buffer], descriptors: Collection[int] = ()) -> None:
        """Write a message, and keep what the socket does not accept for `flush`.

        File ``descriptors`` are sent with its first byte and then closed here. Raises OSError
        (`BrokenPipeError`) if the other end is closed.
        """
        self.count += 1
        count = len(parts)
        few = count < len(_HEADS) and not (self.waiting or descriptors)
        if few and _SMALL.issuperset(map(type, parts)):
            sizes = [*map(len, parts)]
            if sum(sizes) < _TOGETHER:  # the most frequent case, with a single buffer
                data = b"".join((_HEADS[count].pack(_MAGIC, count, *sizes), *parts))
                try:
                    sent = self._socket.send(data)
                except BlockingIOError:
                    sent = 0
                if sent != len(data):
                    self._keep((data[sent:],), ())
                return
        buffers = [head(parts), *parts]
        if self.waiting or descriptors:
            self._keep(buffers, tuple(descriptors))
            self.flush()
            return
        try:
            sent = self._socket.sendmsg(buffers[:_AT_ONCE])
        except BlockingIOError:
            sent = 0
        if sent != sum(map(size_of, buffers)):
            self._keep(buffers, ())
            self._drop(sent)
            self.flush()

    def _keep(self, buffers: Iterable[Buffer], fds: tuple[int, ...]) -> None:
        for buffer in buffers:
            view = memoryview(buffer).cast("B") if size_of(buffer) else memoryview(b"")
            if len(view):
                self.waiting.append((view, fds))
                fds = ()

    def flush(self) -> None:
        """Write what was kept, as much as the socket accepts."""
        with suppress(BlockingIOError):
            while self.waiting:
                fds = self.waiting[0][1]
                self._drop(self._write(fds))

    def _write(self, fds: tuple[int, ...]) -> int:
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))
            sent = self._socket.sendmsg([self.waiting[0][0]], [rights])
            _close(fds)
            return sent
        views: list[memoryview] = []
        for view, others in self.waiting:
            if others or len(views) == _AT_ONCE:
                break
            views.append(view)
        return self._socket.sendmsg(views)

    def own(self) -> None:
        """Copy what was kept, since the sender may change its buffers from now on."""
        self.waiting = deque((memoryview(bytes(view)), fds) for view, fds in self.waiting)

    def close(self) -> None:
        """Drop what was kept, and close its descriptors."""
        for _, fds in self.waiting:
            _close(fds)
        self.waiting.clear()

    def _drop(self, sent: int) -> None:
        while sent:
            view, _ = self.waiting[0]
            if sent < len(view):
                self.waiting[0] = view[sent:], ()
                return
            sent -= len(view)
            self.waiting.popleft()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def own(parts: Sequence[Buffer]) -> Parts:
    """The parts, with copies of those that may be changed elsewhere."""
    return [part if type(part) is bytes else bytearray(part) for part in parts]


def changeable(parts: Sequence[Buffer]) -> bool:
    """Whether any of the parts can be changed; bytes, and views of bytes, cannot."""
    return any(type(getattr(part, "obj", part)) is not bytes for part in parts)


def size_of(buffer: Buffer) -> int:
    """The size in bytes."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
