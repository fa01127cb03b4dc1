"""The letters of services: what registry, servers and clients send each other on their port.

    client  ── Acquire, Forget, LeaseEnded, NewClient, Inquiry ──►  registry (controller)
    client  ── WaitStarted, WaitEnded ───────────────────────────►  registry
    client  ◄── Granted, Refused, Reply, ServerGone, Deadlock ────  registry
    client  ── Calls ──►  server  ── Answers ──►  client
    server  ── Ready, Answers, Saved, Stopping, Alive ──►  registry
    server  ◄── Probe ───────────────────────────────────  registry
    server  ── GroupMessage ──►  other servers of its group  ◄── MemberLost ──  registry

A letter is the first part of a message; payloads and large buffers follow. Clients and servers
send calls and answers to each other directly; the registry only decides who may call whom.
"""

from __future__ import annotations

import msgspec

from encamp.services.call_statistics import CallStatistics
from encamp.wire.protocol import reader

CALL, READ, WRITE, APPLY, RELEASE, GROUP, END = range(7)
"""Kinds of calls: call a method, read an attribute, set one, make a `ParameterCall`, end the lease,
send the server the members of its group, end the server."""

ServiceCall = tuple[int, int, int, str, bytes, int]
"""The call's number at the client, lease, kind, name of the method or attribute, pickle of the
arguments, and how many large buffers these have."""
CallAnswer = tuple[int, bool, bytes, int]
"""The call's number, whether it has a value (or an error), the pickle, and its number of large
buffers."""


class Letter(msgspec.Struct, array_like=True, gc=False):
    """Base of all letters."""


class Acquire(Letter, tag=0):
    """A client requests ``count`` servers (0: all), or the one with number ``server``.

    ``notice`` asks for a warning with the reason if the wait is long.
    """

    service: int
    ticket: int
    count: int = 1
    server: int = 0
    notice: bool = False


class Forget(Letter, tag=1):
    """A client withdraws a request or question; servers that were granted since are free."""

    ticket: int


class Granted(Letter, tag=2):
    """A request is granted: number, task and lease of each server."""

    ticket: int
    leases: list[tuple[int, int, int]]
    relayed: bool
    """Whether calls go through the registry."""
    methods: list[str]


class Refused(Letter, tag=3):
    """A request or question is refused; the error follows."""

    ticket: int


class LeaseEnded(Letter, tag=4):
    """A lease ends, and all of its calls are answered."""

    server: int
    lease: int


class NewClient(Letter, tag=5):
    """A client calls a server through a proxy that another one has passed on."""

    server: int


class WaitStarted(Letter, tag=6):
    """A task waits for a call's answer, or for any server (``server`` is 0).

    ``answered``: if the task is a server, the last call of each client that it has answered.
    ``held``: the leases that the task has.
    """

    ticket: int
    service: int
    server: int
    number: int
    answered: dict[int, int]
    held: list[int]


class WaitEnded(Letter, tag=7):
    """The task of `WaitStarted` does not wait any more."""

    ticket: int


class Deadlock(Letter, tag=8):
    """The task of `WaitStarted` would wait forever."""

    ticket: int


class Inquiry(Letter, tag=9):
    """A question about a service; its arguments follow."""

    service: int
    ticket: int
    what: str


class Reply(Letter, tag=10):
    """The answer to a question follows."""

    ticket: int


class ServerGone(Letter, tag=11):
    """A server has ended; the error, without the facts of a call, follows.

    ``about`` and ``number``: client and number of the call that it had begun last; -1: unknown.
    """

    server: int
    about: int
    number: int


class Calls(Letter, tag=12):
    """Calls in order; their large buffers follow. ``client`` has made them, if they are relayed."""

    server: int
    calls: list[ServiceCall]
    client: int = -1


class Answers(Letter, tag=13):
    """Answers to calls, the leases that have ended, and the server's statistics."""

    server: int
    answers: list[CallAnswer]
    freed: list[int]
    statistics: CallStatistics


class Ready(Letter, tag=14):
    """A server is ready: the names of its object's class and methods."""

    server: int
    name: str
    methods: list[str]


class Saved(Letter, tag=15):
    """A server's state after ``serial`` calls follows: its leases and groups, then its object."""

    server: int
    serial: int


class GroupMessage(Letter, tag=16):
    """A message from one member of a group to another; its payload follows."""

    group: int
    rank: int


class MemberLost(Letter, tag=17):
    """A member of a group has ended."""

    group: int


class Stopping(Letter, tag=18):
    """A server is asked to stop: client of the call that it has begun last, and how far that is.

    ``mark`` is twice the call's number, and one more if the call has ended.
    """

    server: int
    about: int
    mark: int


class Probe(Letter, tag=19):
    """The registry asks if a server is alive, which answers between calls or while it waits."""


class Alive(Letter, tag=20):
    """The answer to `Probe`."""


_Any = (
    Acquire | Forget | Granted | Refused | LeaseEnded | NewClient | WaitStarted | WaitEnded
    | Deadlock | Inquiry | Reply | ServerGone | Calls | Answers | Ready | Saved
    | GroupMessage | MemberLost | Stopping | Probe | Alive
)  # fmt: skip
encode = msgspec.msgpack.Encoder().encode
decode = reader(_Any, "letter")
"""The letter in a message's first part. Raises `BadFrame`; runs no code of the sender's."""
