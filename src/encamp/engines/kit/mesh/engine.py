"""The controller's end of the mesh: which agents there are, which have joined and left."""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from encamp.engines.engine_interface import Arrival, Engine, Joined, Left
from encamp.engines.kit.mesh.certificate import new_identity
from encamp.engines.kit.mesh.control_messages import (
    Address,
    ConnectionLost,
    Control,
    Greeting,
    PeerAddresses,
    Relay,
    Welcome,
    WhereIs,
    control,
)
from encamp.engines.kit.mesh.endpoint import MeshEndpoint, Peer
from encamp.engines.kit.mesh.tls_connection import TLSConnection
from encamp.engines.kit.start_agents import Order, host_id, variables_to_send
from encamp.errors import EngineFailed
from encamp.timeouts import ALL_END, LOST_BY_OTHERS
from encamp.wire.frames import Buffer, Parts


@dataclass
class ExpectedAgent:
    """An agent, ``where`` the engine has started it, with this number of ``slots``."""

    number: int
    where: Hashable
    label: str
    slots: int
    link: TLSConnection | None = None
    listens: list[Address] = field(default_factory=list)
    given_up: bool = False


class MeshEngine(MeshEndpoint, Engine):
    """Base of engines that only start agents; the mesh carries the frames.

    An agent that ends alone is started again, ``restarts`` times in total.
    """

    private = True
    tunnel = ""
    """The system that carries frames of agents without any direct connection."""

    relays = False
    """Whether frames between agents go through the controller only."""

    def __init__(self, name: str, restarts: int) -> None:
        self.name = name
        super().__init__(0, new_identity(name))
        self.run = secrets.token_hex(8)
        self.known: dict[int, ExpectedAgent] = {}
        """The agents that have joined or are starting."""
        self.whole = True
        """Whether an agent has all slots of its host or worker; else it has one."""
        self._orders = b""
        self._numbers = 0
        self._restarts = restarts
        self._calls: deque[Callable[[], None]] = deque()
        self._offered: set[socket.socket] = set()
        """Ends of tunnels that were not accepted yet."""
        self._broken: dict[int, float] = {}
        self._stopping = self._had_some = False

    def one_slot_each(self) -> None:
        """See `Engine.one_slot_each`."""
        self.whole = False

    def start(self, orders: bytes) -> None:
        """See `Engine.start`."""
        self._orders = orders
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Start the first agents; set `agents` to the number to wait for. See `Engine.start`."""

    @abstractmethod
    def begin_again(self, agent: ExpectedAgent) -> None:
        """Start another agent in place of one that has ended alone, if its host is still there.

        `expect_again` registers it.
        """

    def slots_lost(self) -> None:
        """Called when slots were lost, so that others may replace them."""

    @property
    def total_slots(self) -> int:
        """The slots of all agents, including those that are being started."""
        return sum(agent.slots for agent in self.known.values() if not agent.given_up)

    def end_by_force(self, agents: Iterable[ExpectedAgent]) -> None:
        """End agents that did not end by themselves. Blocks for at most some seconds."""

    def release(self) -> None:
        """Release the system on which the agents ran; called last."""

    def order(self, dial: list[Address]) -> Order:
        """The order for agents that are started now; ``dial`` are addresses of this host."""
        identity = self._identity
        return Order(
            self.run, identity.certificate, identity.key, dial, host_id(), variables_to_send()
        )

    def expect(self, where: Hashable, label: str, slots: Iterable[int]) -> list[ExpectedAgent]:
        """Register agents that will be started there, one for each number of slots."""
        found = []
        for count in slots:
            self._numbers += 1
            agent = ExpectedAgent(self._numbers, where, label, count)
            self.known[agent.number] = agent
            found.append(agent)
        return found

    def expect_again(self, agent: ExpectedAgent) -> list[ExpectedAgent]:
        """Register an agent that will be started in place of one that has ended.

        It counts as a restart, unless the other was given up; the list is empty if none is left.
        """
        if not agent.given_up:
            if not self._restarts:
                return []
            self._restarts -= 1
        return self.expect(agent.where, agent.label, [agent.slots])

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call a function in the thread that uses the network; from any thread."""
        self._calls.append(call)
        self.wake()

    def could_not_join(self, number: int, why: str) -> None:
        """Handle an agent that has ended before it has joined, or could not be started."""
        agent = self.known.get(number)
        if agent is None or agent.link is not None:
            return
        del self.known[number]
        self.agents = max(0, self.agents - 1)
        self.slots_lost()
        if not (self.known or self._had_some):
            raise EngineFailed(self.name, f"no agent could be started: {agent.label}: {why}")

    # What the mesh reports

    def knows(self, greeting: Greeting) -> bool:
        """See `MeshEndpoint.knows`."""
        there = greeting.number in self.known and greeting.number not in self._peers
        return there and not self._stopping

    def joined(self, link: TLSConnection, greeting: Greeting) -> None:
        """Handle the greeting of an agent; one in a tunnel is dialled first, for a faster route."""
        agent = self.known[greeting.number]
        agent.listens = greeting.listens
        peer = self._peers[agent.number] = Peer()
        peer.other = link
        peer.addresses = list(greeting.listens) if link.tunnelled else []
        self.dial_next(agent.number)

    def welcomed(self, link: TLSConnection) -> None:
        """See `MeshEndpoint.welcomed`; the agent may have left in the meantime."""
        if link.number in self._peers:
            super().welcomed(link)
        else:
            self._end(link, ConnectionError("it has gone"))

    def use_link(self, number: int, link: TLSConnection) -> None:
        """Welcome an agent that has joined; its orders are the first frame that it gets."""
        self._had_some = True
        agent, peer = self.known[number], self._peers[number]
        agent.link = link
        tunnel, peer.other = peer.other, None
        if tunnel is link:
            link.send([control(Welcome(self.number))])
        elif tunnel is not None:
            self._end(tunnel, ConnectionError("it is not needed"))
        link.send([self._orders])
        super().use_link(number, link)
        self._arrived.append(Joined(number, self.tunnel if link.tunnelled else ""))

    def tunnelled(self, raw: socket.socket) -> None:
        """Accept an agent that connects through a tunnel, by this end of it; from any thread."""
        self._offered.add(raw)
        self.call_soon(partial(self._take_tunnel, raw))
        if self._closed:
            raw.close()

    def _take_tunnel(self, raw: socket.socket) -> None:
        self._offered.discard(raw)
        raw.setblocking(False)
        self._add(TLSConnection(raw, self._identity, self._as_server, server=True))

    def _release_network(self) -> None:
        super()._release_network()
        for raw in list(self._offered):
            raw.close()

    def arrived(self, link: TLSConnection, parts: Parts) -> None:
        """See `MeshEndpoint.arrived`; frames of an agent that was given up are ignored."""
        agent = self.known.get(link.number or 0)
        if agent is not None and not agent.given_up:
            super().arrived(link, parts)

    def control_received(self, link: TLSConnection, message: Control, parts: Parts) -> None:
        """See `MeshEndpoint.control_received`."""
        if isinstance(message, WhereIs):
            agent = self.known.get(message.number)
            listens = [] if agent is None or self.relays else agent.listens
            there = agent is not None and not agent.given_up
            link.send([control(PeerAddresses(message.number, listens, there))])
            self._watch(link)
        elif isinstance(message, Relay):
            to = self.known.get(message.to)
            if to is not None and to.link is not None and link.number is not None:
                self.send(message.to, [control(Relay(link.number, message.to)), *parts[1:]])
        elif isinstance(message, ConnectionLost) and message.number in self.known:
            self._broken.setdefault(message.number, time.monotonic() + LOST_BY_OTHERS)

    def lost(self, number: int, link: TLSConnection, why: Exception) -> None:
        """Handle an agent that has left; nothing more arrives from it."""
        agent = self.known.get(number)
        if agent is None or agent.link not in (None, link):
            return  # it has another connection
        self._peers.pop(number, None)
        if agent.link is None:
            self.could_not_join(number, "its connection has ended")
            return
        del self.known[number]
        self._broken.pop(number, None)
        again = agent.given_up or self._restarts > 0
        none_left = "" if again else ", and no restart is left; restarts= allows more"
        self._arrived.append(Left(number, f"the agent on {agent.label} has ended{none_left}"))
        if not self._stopping:
            if again:
                self.begin_again(agent)
            self.slots_lost()

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`; frames to an unknown agent are dropped."""
        if to in self._peers:
            super().send(to, parts)

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        while self._calls and not self._closed:
            self._calls.popleft()()
        if self._broken:
            self._end_broken()
        return super().receive()

    def _end_broken(self) -> None:
        """End agents that others have lost the connection to: they have missed messages."""
        now = time.monotonic()
        for number in [number for number, when in self._broken.items() if when <= now]:
            del self._broken[number]
            if (agent := self.known.get(number)) is not None and agent.link is not None:
                self._end(agent.link, ConnectionError("another agent lost the connection to it"))

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        if self._calls:
            return 0
        patience = super().patience()
        if not self._broken:
            return patience
        left = max(0.0, min(self._broken.values()) - time.monotonic())
        return left if patience is None else min(left, patience)

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        agents = list(self.known.values())
        return any(one.link is not None and one.link.sending for one in agents if not one.given_up)

    def give_up(self, agent: int) -> None:
        """See `Engine.give_up`."""
        if (lost := self.known.get(agent)) is not None:
            lost.given_up = True
            self.slots_lost()

    # Closing

    def stop(self) -> None:
        """See `Engine.stop`."""
        if self._process != os.getpid() or self._closed:
            return
        self._stopping = True
        deadline = time.monotonic() + ALL_END
        self._wait_until(lambda: not self._there(), deadline)
        if left := self._there():
            self.end_by_force(left)
            self._wait_until(lambda: not self._there(), time.monotonic() + 2.0)
        self.close()
        self.release()

    def _there(self) -> list[ExpectedAgent]:
        """The agents that have joined, and have yet to end."""
        agents = self.known.values()
        return [agent for agent in agents if agent.link is not None and not agent.given_up]


def shares(slots: int | None, room: Sequence[int]) -> list[int]:
    """Distribute ``slots`` as evenly as possible; ``room`` is the most that each part can have."""
    if slots is None or slots >= sum(room):
        return list(room)
    found = [0] * len(room)
    for _ in range(slots):
        free = [most - got for most, got in zip(room, found, strict=True)]
        least = min((got for got, left in zip(found, free, strict=True) if left), default=math.inf)
        at = next(i for i, left in enumerate(free) if left and found[i] == least)
        found[at] += 1
    return found
