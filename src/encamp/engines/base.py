"""The interface of an engine: everything that a cluster needs from it.

An engine starts an *agent* on every host, carries frames of bytes between any two agents and the
controller, and reports which agents have joined and left. It pickles nothing, knows no paths and
makes no decisions. The controller is number 0, agents are 1, 2, 3, …
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from encamp.errors import UnsupportedByEngine
from encamp.wire.frames import Buffer, Parts

CONTROLLER = 0


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A message from ``sender``. (A dataclass would take as long as MPI takes for a message.)"""

    sender: int
    parts: Parts


@dataclass(frozen=True, slots=True)
class Joined:
    """An agent is there. ``by`` is what carries its frames, where these do not go directly."""

    agent: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """An agent is gone for good, or, seen from an agent, the controller is."""

    agent: int
    why: str


Arrival = Frame | Joined | Left


Line = Callable[[bytes], bool]
"""Sends a short message to one end, at once; false if it is too long for that."""


class ShortMessages(ABC):
    """What an engine may offer beside frames: small messages that go from memory to memory.

    An interrupt (Ctrl-C) anywhere in here does no harm, so that nobody has to hold it off, which
    takes as long as to send a message. Short messages and frames of a pair keep their order.
    One that is not looked for comes as a frame of one part, which begins with `MARK` as no other.

    ``looks`` has no end: each step looks once, and is true if something is in the ``inbox``, behind
    ``start`` bytes of the engine's own. If it begins with `MARK` it is a short message of
    ``size[0]`` bytes; all else is left to `Endpoint.receive`. It stays there until ``taken`` is
    called, which the endpoint is to be told of (`Endpoint.busy`). Both may raise an ``error``; then
    `failed` is to be called, and `Endpoint.receive` sees to the rest. Nothing of this may be used
    while it is not ``usable``. (It is no call that takes a message, as that would take as long.)
    """

    usable: bool
    looks: Iterator[object]
    inbox: bytearray
    start: int = 0
    size: memoryview
    taken: Callable[[], object]
    error: type[Exception]

    @abstractmethod
    def line(self, to: int, head: bytes) -> Line:
        """What sends short messages to an end, which all begin with ``head``, and that with `MARK`.

        It takes what follows that. Costs as much as to send a message.
        """

    @abstractmethod
    def failed(self) -> None:
        """After an error: what is in the inbox does not count any more."""


class Endpoint(ABC):
    """One end of an engine's network, ``number``. One thread at a time uses it.

    ``slots`` is how many an agent has there, 0 where its orders say it, and ``cores`` the numbers
    of those that each is to use, where it is not to use all of the agent's. ``short`` is the short
    way of small messages, None where there is none; who has received one says so by ``busy``, for
    `patience`. ``left_out`` are folders of the program's search paths that were not taken there.
    """

    number: int = CONTROLLER
    slots: int = 0
    cores: Sequence[Sequence[int]] = ()
    short: ShortMessages | None = None
    busy: bool = False
    left_out: Sequence[str] = ()

    @abstractmethod
    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """Send a message; messages of a pair keep their order.

        Does not wait for the receiver: what cannot go now is kept and goes with later calls. A
        message to an end that is gone is dropped. The parts may not be changed afterwards.
        """

    @abstractmethod
    def receive(self) -> Sequence[Arrival]:
        """What has come since the last call, without waiting; also moves on what was kept.

        Buffers of received parts belong to the caller. Raises `EngineFailed` if the network as a
        whole is gone.
        """

    @abstractmethod
    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when something may have come."""

    @abstractmethod
    def patience(self) -> float | None:
        """Seconds until `receive` must be called though no descriptor is readable.

        None: never. 0: at once, something is under way.
        """

    @property
    def sending(self) -> bool:
        """Whether buffers that were given to `send` are still needed by anybody not given up."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Leave the network; what was sent is brought to its end first. May be called twice."""


class Engine(Endpoint):
    """The controller's end, which also starts and stops the agents.

    ``name`` is how users call it. ``private`` says that only our own processes can put frames
    into the network; otherwise all of them are sealed. ``slots_per_agent`` is 0 where an agent
    has as many slots as its host has cores. ``agents`` is how many are
    waited for at the start. ``agent_here`` is an agent's end that the controller's
    own process serves. One that is ``elastic`` has as many hosts as there is work for: it is told
    of that by `needs`, and may have none for a while.
    """

    name: str
    private: bool = False
    slots_per_agent: int = 0
    agents: int = 1
    agent_here: Endpoint | None = None
    elastic: bool = False

    @abstractmethod
    def start(self, orders: bytes) -> None:
        """Start an agent on every host and give it ``orders``. Each is told of by `Joined`.

        Blocks until they are started or under way. Raises `EngineUnavailable`, `EngineFailed`.
        """

    def one_slot_each(self) -> None:
        """Have agents of one slot each, since they run the tasks themselves; before `start`."""

    def add_hosts(self, hosts: Sequence[str]) -> None:
        """Take in more hosts, as users name them, or again; each agent is told of by `Joined`.

        From any thread. Blocks until they are under way. Raises `EngineFailed`, and
        `UnsupportedByEngine` where hosts are fixed.
        """
        raise UnsupportedByEngine(self.name, "take in hosts while it runs")

    def needs(self, busy: Mapping[int, int], waiting: int) -> None:
        """Told twice a second: slots at work by agent, and how many calls wait for a slot."""

    def give_up(self, agent: int) -> None:
        """The cluster has heard nothing of an agent for long, and takes it to be lost.

        It is told to end, in case that it is there; what it still sends goes unread.
        """

    @abstractmethod
    def stop(self) -> None:
        """End what was started, by force what does not end by itself, and leave the network.

        The cluster has told its agents to end before. Blocks for seconds at most. May be called
        twice, and from another thread than the one that uses the network.
        """
