"""Incoming PVM messages, and big frames that arrive in many pieces.

Any task of the virtual machine may send messages: what cannot be read is `Unreadable`, and memory
is allocated as pieces arrive, whatever their number is said to be.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec

from encamp.engines.pvm import libpvm
from encamp.engines.pvm.libpvm import PVMError
from encamp.wire.frames import LONGEST, Parts

SMALL = 1 << 13
"""Parts up to this size travel together."""
MOST_SIZES = 1 << 20
"""Bytes that say how big a frame's parts are; more than `encamp.wire.frames.MOST_PARTS` take."""
_AHEAD = 1 << 25
"""Bytes that are made room for before they have come, or as many as have come."""

_Size = Annotated[int, msgspec.Meta(ge=0, le=LONGEST)]
_decode_sizes = msgspec.msgpack.Decoder(list[_Size]).decode


class Unreadable(Exception):
    """A message is none of ours."""


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
    """What a big frame's first messages say. Raises `Unreadable` and `msgspec.DecodeError`."""
    sizes = _decode_sizes(said) if len(said) <= MOST_SIZES else []
    if not sizes:
        raise Unreadable
    return sizes


class Pieces:
    """A frame of parts of these sizes, of which nothing has come: small ones together, then big."""

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
        """Whether everything has come."""
        return not self._empty

    def fill(self, size: int) -> bool:
        """Put the message's ``size`` bytes where they belong; whether all is complete now."""
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
    """Room for some bytes, of which ``left`` have not come."""

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
