"""Messages between ends of the mesh about themselves and their connections."""

from __future__ import annotations

import msgspec

from encamp.errors import BadFrame
from encamp.wire.frames import MARK, Parts

Address = tuple[str, int]


class Greeting(msgspec.Struct, frozen=True, array_like=True, tag="greeting"):
    """The first frame of an end that connects: its number, the receiver's, and where it listens."""

    number: int
    to: int
    listens: list[Address] = []


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The answer to a greeting."""

    number: int


class WhereIs(msgspec.Struct, frozen=True, array_like=True, tag="where is"):
    """An agent asks the controller for another agent's addresses."""

    number: int


class PeerAddresses(msgspec.Struct, frozen=True, array_like=True, tag="addresses"):
    """The answer: the other agent's addresses, and whether it has joined."""

    number: int
    listens: list[Address]
    here: bool


class Relay(msgspec.Struct, frozen=True, array_like=True, tag="relay"):
    """The parts after this are a frame for another agent."""

    sender: int
    to: int


class ConnectionLost(msgspec.Struct, frozen=True, array_like=True, tag="lost"):
    """An agent tells the controller that its connection to another has ended."""

    number: int


Control = Greeting | Welcome | WhereIs | PeerAddresses | Relay | ConnectionLost
_decoder = msgspec.msgpack.Decoder(Control)
_encode = msgspec.msgpack.Encoder().encode
_MARK = bytes([MARK])


def control(what: Control) -> bytes:
    """The first part of a frame for the mesh itself."""
    return _MARK + _encode(what)


def control_in(parts: Parts) -> Control | None:
    """The control message in a frame; None if the frame is not for the mesh. Raises `BadFrame`."""
    first = parts[0]
    if len(first) == 0 or first[0] != MARK:
        return None
    try:
        return _decoder.decode(memoryview(first)[1:])
    except msgspec.MsgspecError as exc:
        raise BadFrame(str(exc)) from exc
