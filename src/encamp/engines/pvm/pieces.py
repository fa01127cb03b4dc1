"""Incoming PVM messages, and big frames that arrive in many pieces.

Any task of the virtual machine may send messages, so an invalid one is `Unreadable`, and memory is
allocated only as pieces arrive, whatever sizes were announced.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec

from encamp.engines.pvm import libpvm
from encamp.engines.pvm.libpvm import PVMError
from encamp.wire.frames import LONGEST, Parts

SMALL = 1 << 13
"""Parts up to this size are sent together."""
MOST_SIZES = 1 << 20
"""Bytes for the sizes of a frame's parts, at most; enough for `encamp.wire.frames.MOST_PARTS`."""
_AHEAD = 1 << 25
"""Bytes for which memory is allocated ahead, or as many as have arrived if that is more."""

_Size = Annotated[int, msgspec.Meta(ge=0, le=LONGEST)]
_decode_sizes = msgspec.msgpack.Decoder(list[_Size]).decode


class Unreadable(Exception):
    """A message is not one of encamp's."""


def unpack(size: int) -> bytearray:
    """The next ``size`` bytes of the message. Raises `Unreadable`."""
    try:
        return libpvm.unpack(size)
    except PVMError as exc:
        raise Unreadable from exc


def unpack_ints(count: int) -> list[int]:
    """The next integers of the message. Raises `Unreadable`."""
    try:
        return libpvm.unpack_ints(count)
    except PVMError as exc:
        raise Unreadable from exc


def sizes_in(said: bytearray) -> list[int]:
    """The sizes in a big frame's first messages. Raises `Unreadable` and `msgspec.DecodeError`."""
    sizes = _decode_sizes(said) if len(said) <= MOST_SIZES else []
    if not sizes:
        raise Unreadable
    return sizes


class Pieces:
    """A frame with parts of these sizes: the small ones arrive together, then the big ones."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self._small = _Room(sum(size for size in sizes if size <= SMALL))
        self._big = [_Room(size) for size in sizes if size > SMALL]
        self._empty = deque(room for room in (self._small, *self._big) if room.left)
        ahead = _AHEAD
        for room in self._empty:
            room.data = bytearray(min(room.left, ahead))
            ahead -= len(room.data)

    @property
    def complete(self) -> bool:
        """Whether everything has arrived."""
        return not self._empty

    def fill(self, size: int) -> bool:
        """Take the next ``size`` bytes from a message; returns whether the frame is complete."""
        if not self._empty or size > self._empty[0].left:
            raise Unreadable
        room = self._empty[0]
        room.take(size)
        if not room.left:
            self._empty.popleft()
        return self.complete

    def parts(self) -> Parts:
        """The parts of a complete frame."""
        small, start = memoryview(self._small.data), 0
        rest = iter(self._big)
        parts: Parts = []
        for size in self._sizes:
            if size > SMALL:
                parts.append(memoryview(next(rest).data))
            else:
                parts.append(small[start : start + size])
                start += size
        return parts


class _Room:
    """Memory for some bytes, of which ``left`` have not arrived."""

    def __init__(self, size: int) -> None:
        self.data, self.left = bytearray(), size
        self._come = 0

    def take(self, size: int) -> None:
        """Add the message's next ``size`` bytes."""
        come = self._come
        if come + size > len(self.data):
            self.data += bytes(come + min(self.left, max(size, come, _AHEAD)) - len(self.data))
        with memoryview(self.data) as view, view[come : come + size] as here:
            _unpack_to(here, size)
        self._come, self.left = come + size, self.left - size


def _unpack_to(view: memoryview, size: int) -> None:
    try:
        libpvm.unpack_to(libpvm.address_of(view), size)
    except PVMError as exc:
        raise Unreadable from exc
