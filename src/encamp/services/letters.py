"""The letters of services: what registry, servers and clients send each other on their port.

    client  ── Acquire, Forget, Free, Uses, Waits, WaitsNoMore, Ask ──►  registry (controller)
    client  ◄── Granted, Refused, Told, Lost, Circle ──────────────────  registry
    client  ── Calls ──►  server  ── Answers ──►  client
    server  ── Ready, Answers, Saved, Dying, Alive, Between ──►  registry, other servers
    server  ◄── Asked ─────────────────────────────────────────  registry

A letter is the first part of a message; payloads and large buffers follow. Clients and servers
send calls and answers to each other directly; the registry only decides who may call whom.
"""

from __future__ import annotations

from typing import Any

import msgspec

from encamp.errors import BadFrame
from encamp.wire.frames import Buffer

CALL, READ, WRITE, APPLY, RELEASE, GROUP, END = range(7)
"""What a call asks for: a method, an attribute's value, to set one, `Apply`; that its lease ends
behind it; who is in its group; that the server ends."""

Call = tuple[int, int, int, str, bytes, int]
"""Its number (the client's), its lease, what it asks for, of which name, the pickle of arguments,
and how many large buffers these have."""
Answer = tuple[int, bool, bytes, int]
"""The call's number, whether it is a value, its pickle, and how many large buffers that has."""
Seen = tuple[int, int, float, float]
"""Of a server: calls, those that raised, seconds in them, and the mean time of the last ones."""


class Letter(msgspec.Struct, array_like=True, gc=False):
    """Base of all letters."""


class Acquire(Letter, tag=0):
    """A client wants servers: ``count`` of any (0: all), or a certain one."""

    service: int
    ticket: int
    count: int = 1
    server: int = 0


class Forget(Letter, tag=1):
    """It does not any more; what was granted meanwhile is free."""

    ticket: int


class Granted(Letter, tag=2):
    """Servers are a client's: of each its number, its task, and the lease."""

    ticket: int
    leases: list[tuple[int, int, int]]
    relayed: bool
    """Whether calls go by way of the registry."""
    methods: list[str]


class Refused(Letter, tag=3):
    """None will be; the error follows."""

    ticket: int


class Free(Letter, tag=4):
    """A lease ends, and no call of it is under way."""

    server: int
    lease: int


class Uses(Letter, tag=5):
    """A client calls a server that was not granted to it, but passed on."""

    server: int


class Waits(Letter, tag=6):
    """A task waits for a call's answer, or for a server (``server`` 0).

    ``answered``: the last number of each client that it has itself answered, if it is a server;
    ``held``: the leases that it has.
    """

    ticket: int
    service: int
    server: int
    number: int
    answered: dict[int, int]
    held: list[int]


class WaitsNoMore(Letter, tag=7):
    ticket: int


class Circle(Letter, tag=8):
    """What is waited for will never come."""

    ticket: int


class Ask(Letter, tag=9):
    """Something about a service; arguments follow."""

    service: int
    ticket: int
    what: str


class Told(Letter, tag=10):
    """The answer follows."""

    ticket: int


class Lost(Letter, tag=11):
    """A server is gone; the error, without what it says of a call, follows.

    ``about`` and ``number``: whose call it had begun last, and which; -1: not known.
    """

    server: int
    about: int
    number: int


class Calls(Letter, tag=12):
    """Calls, in their order; the large buffers of all follow. ``client``: whose, if relayed."""

    server: int
    calls: list[Call]
    client: int = -1


class Answers(Letter, tag=13):
    """What came of calls, the leases that end behind them, and what the server has done so far."""

    server: int
    answers: list[Answer]
    freed: list[int]
    seen: Seen


class Ready(Letter, tag=14):
    """A server can be called: the names of its object's class and methods."""

    server: int
    name: str
    methods: list[str]


class Saved(Letter, tag=15):
    """The state after so many calls follows, as a pickle."""

    server: int
    serial: int


class Between(Letter, tag=16):
    """From one member of a group to another; the payload follows."""

    group: int
    rank: int


class Broken(Letter, tag=17):
    """A member of a group is gone."""

    group: int


class Dying(Letter, tag=18):
    """A server is asked to stop: whose call it has begun, and which."""

    server: int
    about: int
    number: int


class Asked(Letter, tag=19):
    """A server is to answer as soon as it is between two calls, or waits in one."""


class Alive(Letter, tag=20):
    """It is."""


_Any = (
    Acquire | Forget | Granted | Refused | Free | Uses | Waits | WaitsNoMore | Circle | Ask | Told
    | Lost | Calls | Answers | Ready | Saved | Between | Broken | Dying
    | Asked | Alive
)  # fmt: skip
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_Any)
encode = msgspec.msgpack.Encoder().encode


def decode(part: Buffer) -> Any:
    """The letter again. Raises `BadFrame`; runs no code of the sender's."""
    try:
        return _decoder.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadFrame(f"its letter cannot be read ({exc})") from exc
