"""The interface of an engine: everything that a cluster needs from it.

An engine starts an *agent* on every host, carries frames of bytes between any two agents and the
controller, and reports which agents have joined and left. It pickles nothing, knows no paths and
makes no decisions. The controller is number 0, agents are 1, 2, 3, …
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from encamp.errors import UnsupportedByEngine
from encamp.wire.frames import Buffer, Parts

CONTROLLER = 0


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A message from ``sender``. (A dataclass would take as long as MPI takes for a message.)"""

    sender: int
    parts: Parts


class Joined(msgspec.Struct, frozen=True):
    """An agent has joined. ``by`` names the relay of its frames, if it has no direct connection."""

    agent: int
    by: str = ""


class Left(msgspec.Struct, frozen=True):
    """An agent has left for good or, seen from an agent, the controller has."""

    agent: int
    why: str


Arrival = Frame | Joined | Left


PreparedSend = Callable[[bytes], bool]
"""Sends a short message to one end at once; returns False if the message is too long for that."""


class ShortMessages(ABC):
    """An optional shortcut of an engine: small messages that go from memory to memory.

    An interrupt (Ctrl-C) does no harm anywhere in it, so callers do not have to defer it, which
    takes as long as sending a message. Short messages and frames of a pair keep their order. A
    short message that no receiver polls for arrives as a frame of one part that begins with `MARK`;
    no other part does.

    ``looks`` is an endless iterator: each step polls once, and is true if a message is in the
    ``inbox``, after ``start`` bytes of the engine's own. If it begins with `MARK`, it is a short
    message of ``size[0]`` bytes; leave everything else to `Endpoint.receive`. The message stays
    there until ``taken`` is called; then set `Endpoint.busy`. Both may raise an ``error``; then
    call `failed`, and `Endpoint.receive` does the rest. Use none of this while ``usable`` is false.
    (There is no method that takes a message, because calling one would take as long as the
    message.)
    """

    usable: bool
    looks: Iterator[object]
    inbox: bytearray
    start: int = 0
    size: memoryview
    taken: Callable[[], object]
    error: type[Exception]

    @abstractmethod
    def prepare(self, to: int, head: bytes) -> PreparedSend:
        """A function that sends short messages to an end, each beginning with ``head``.

        ``head`` begins with `MARK`; the function takes the rest of the message. Preparing costs as
        much as sending a message.
        """

    @abstractmethod
    def failed(self) -> None:
        """After an error: ignore what is in the inbox."""


class Endpoint(ABC):
    """One end of an engine's network, ``number``. One thread at a time uses it.

    ``slots`` is the number of an agent's slots (0 if its orders contain the number), and ``cores``
    the cores of each slot, if a slot may not use all of the agent's. ``short`` is the shortcut for
    small messages, None if there is none; the receiver of one sets ``busy``, for `patience`.
    ``left_out`` are folders of the program's search paths that are not used there.
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

        Does not wait for the receiver: what cannot be sent now is kept and sent by later calls. A
        message to an end that has left is dropped. The parts must not be changed afterwards.
        """

    @abstractmethod
    def receive(self) -> Sequence[Arrival]:
        """Return what has arrived since the last call, without waiting; also send what was kept.

        Buffers of received parts belong to the caller. Raises `EngineFailed` if the network as a
        whole has failed.
        """

    @abstractmethod
    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when something may have arrived."""

    @abstractmethod
    def patience(self) -> float | None:
        """Seconds after which `receive` must be called even if no descriptor is readable.

        None: never. 0: at once, something is in progress.
        """

    @property
    def sending(self) -> bool:
        """Whether buffers that were given to `send` are still being sent.

        Buffers for ends that were given up do not count.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Leave the network, after sending everything. Idempotent."""


class Engine(Endpoint):
    """The controller's end, which also starts and stops the agents.

    ``name`` is its name for users. ``private`` is True if only encamp's own processes can put
    frames into the network; otherwise all frames are sealed. The key of the seals travels
    unencrypted between hosts; that of a private network does, too, if ``key_in_clear``.
    ``slots_per_agent`` is 0 if an agent has as many slots as its host has cores. ``agents`` is how
    many to wait for at the start. ``agent_here`` is the end of the only agent if the controller's
    own process serves it: the two call each other, and send nothing through the engine. An
    ``elastic`` engine adapts its number of hosts to the work, about which `needs` informs it, and
    may have no hosts for a while.
    """

    name: str
    private: bool = False
    key_in_clear: bool = False
    slots_per_agent: int = 0
    agents: int = 1
    agent_here: Endpoint | None = None
    elastic: bool = False

    @abstractmethod
    def start(self, orders: bytes) -> None:
        """Start an agent on every host and give it ``orders``. `Joined` reports each of them.

        Except ``agent_here``, which the cluster starts. Blocks until they are started or being
        started. Raises `EngineUnavailable`, `EngineFailed`.
        """

    def one_slot_each(self) -> None:
        """Start agents with one slot each, since they run tasks themselves; before `start`."""

    def add_hosts(self, hosts: Sequence[str]) -> None:
        """Add hosts, as users name them, or lost ones again; `Joined` reports each agent.

        From any thread. Blocks until they are being started. Raises `EngineFailed`, and
        `UnsupportedByEngine` if hosts are fixed.
        """
        raise UnsupportedByEngine(self.name, "add hosts while it runs")

    def needs(self, busy: Mapping[int, int], waiting: int) -> None:
        """Called twice a second with the busy slots per agent, and the number of waiting calls."""

    def give_up(self, agent: int) -> None:
        """Give up an agent that the cluster counts as lost, because it was silent for too long.

        The agent is asked to end, in case it is alive; what it still sends is ignored.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the agents, if necessary by force, and leave the network.

        The cluster has asked its agents to end before. Blocks for at most some seconds. Idempotent;
        may be called from a different thread than the one that uses the network.
        """
