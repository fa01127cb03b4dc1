"""Two engines without a network: one to inject faults, one to measure a controller.

`FakeEngine` is a network in memory. Its agents are threads of this process, its slots are real
processes. Hosts can be added, killed and cut off, and frames forged, lost and repeated.
`SimulatedEngine` answers every call at once without running it, for up to ten thousand hosts.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from encamp.engines.engine_interface import (
    CONTROLLER,
    Arrival,
    Endpoint,
    Engine,
    Frame,
    Joined,
    Left,
)
from encamp.errors import EngineFailed, NoSuchHost
from encamp.version import __version__
from encamp.wire import protocol
from encamp.wire.frames import Buffer, Parts, head

_END_WITHIN = 10.0
"""Seconds that agents may take to end when the engine stops."""


class _Inbox:
    """The arrivals of an endpoint. ``descriptor`` is readable while there are some. Thread-safe."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque()
        self._lock = threading.Lock()
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def put(self, arrivals: Iterable[Arrival]) -> None:
        """Add arrivals."""
        with self._lock:
            self._arrivals.extend(arrivals)
            if self._arrivals and self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def take(self) -> list[Arrival]:
        """Return what has arrived since the last call."""
        with self._lock:
            if self.descriptor < 0:
                return []
            with suppress(BlockingIOError):
                os.eventfd_read(self.descriptor)
            arrivals = list(self._arrivals)
            self._arrivals.clear()
            return arrivals

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        with self._lock:
            if self.descriptor >= 0:
                os.close(self.descriptor)
            self.descriptor = -1


@dataclass
class _Network:
    """Carries frames between inboxes, with the planned faults."""

    inboxes: dict[int, _Inbox] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    held: list[tuple[int, Frame]] = field(default_factory=list)
    """Frames to and from agents that are cut off; they arrive after that, as with TCP."""
    to_lose: Counter[tuple[int, int]] = field(default_factory=Counter)
    to_double: Counter[tuple[int, int]] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def carry(self, sender: int, to: int, parts: Sequence[Buffer]) -> None:
        """Deliver a frame, unless it is planned to lose or repeat it."""
        head(parts)  # raises if a real network could not send the frame
        frame = Frame(sender, [_copy(part) for part in parts])
        with self.lock:
            if sender not in self.inboxes or self._planned(self.to_lose, sender, to):
                return
            times = 2 if self._planned(self.to_double, sender, to) else 1
            for _ in range(times):
                self._deliver(to, frame)

    def _planned(self, plan: Counter[tuple[int, int]], sender: int, to: int) -> bool:
        planned = plan[sender, to] > 0
        if planned:
            plan[sender, to] -= 1
        return planned

    def _deliver(self, to: int, frame: Frame) -> None:
        if {to, frame.sender} & self.cut:
            self.held.append((to, frame))
        elif to in self.inboxes:
            self.inboxes[to].put([frame])

    def deliver(self, to: int, arrival: Arrival) -> None:
        """Deliver an arrival at once, unless the receiver has left."""
        with self.lock:
            if to in self.inboxes:
                self.inboxes[to].put([arrival])

    def restore(self, agent: int) -> None:
        """Connect an agent again that was cut off."""
        with self.lock:
            self.cut.discard(agent)
            held, self.held = self.held, []
            for to, frame in held:
                self._deliver(to, frame)

    def leave(self, number: int) -> _Inbox | None:
        """Remove an endpoint from the network; what it sends from now on is dropped."""
        with self.lock:
            self.cut.discard(number)
            self.held = [(to, frame) for to, frame in self.held if number not in (to, frame.sender)]
            return self.inboxes.pop(number, None)


def _copy(part: Buffer) -> Buffer:
    """A part as its receiver gets it, with its own memory."""
    if isinstance(part, bytes):
        return part
    return bytearray(part.cast("B") if isinstance(part, memoryview) and part.nbytes else part)


class _FakeEndpoint(Endpoint):
    """An endpoint of the network in memory."""

    def __init__(self, network: _Network, number: int) -> None:
        self._network, self.number = network, number
        self._inbox = network.inboxes[number] = _Inbox()

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        self._network.carry(self.number, to, parts)

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        return self._inbox.take()

    def descriptors(self) -> Sequence[int]:
        """See `Endpoint.descriptors`."""
        return [self._inbox.descriptor]

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        return None

    def close(self) -> None:
        """See `Endpoint.close`."""
        self._network.leave(self.number)
        self._inbox.close()


@dataclass
class _FakeHost:
    """A host of the network in memory, whose agent is a thread."""

    name: str
    slots: int | None
    end: _FakeEndpoint
    thread: threading.Thread | None = None


class FakeEngine(_FakeEndpoint, Engine):
    """Hosts called ``fake-1``, ``fake-2``, …, each with ``slots`` (None: as the cluster wants).

    The methods that cause faults may be called from any thread. Frames are sealed, as on any engine
    whose network is not private.
    """

    name = "fake"
    private = False

    def __init__(self, hosts: int = 3, slots: int | Sequence[int] | None = None) -> None:
        super().__init__(_Network(), CONTROLLER)
        self.slots_per_agent = slots if isinstance(slots, int) else 0
        self._wanted = [slots] * hosts if not isinstance(slots, Sequence) else list(slots)
        self.agents = len(self._wanted)
        self._orders = b""
        self._hosts: dict[int, _FakeHost] = {}
        self._lock = threading.Lock()

    def start(self, orders: bytes) -> None:
        """See `Engine.start`."""
        self._orders = orders
        for slots in self._wanted:
            self.add_host(slots)

    def add_host(self, slots: int | None = None) -> str:
        """Add a host; returns its name."""
        with self._lock:
            number = len(self._hosts) + 1
            host = _FakeHost(f"fake-{number}", slots, _FakeEndpoint(self._network, number))
            self._hosts[number] = host
        self._network.deliver(number, Frame(CONTROLLER, [self._orders_of(slots)]))
        self._network.deliver(CONTROLLER, Joined(number))
        host.thread = threading.Thread(
            target=self._run, args=(number, host), name=host.name, daemon=True
        )
        host.thread.start()
        return host.name

    def _orders_of(self, slots: int | None) -> bytes:
        if slots is None:
            return self._orders
        return protocol.encode(msgspec.structs.replace(protocol.decode(self._orders), slots=slots))

    def _run(self, number: int, host: _FakeHost) -> None:
        from encamp.agent.agent import serve

        why = "its agent has ended"
        try:
            serve(host.end, host=host.name)
        except Exception as exc:  # noqa: BLE001 - the agent of a host that was killed may fail anyhow
            why = f"its agent failed: {type(exc).__name__}: {exc}"
        finally:
            here = number in self._network.inboxes
            host.end.close()
        if here:
            self._network.deliver(CONTROLLER, Left(number, why))

    def kill_host(self, name: str) -> None:
        """Kill a host: it sends nothing more, and its slots end."""
        number = self.number_of(name)
        inbox = self._network.leave(number)
        if inbox is not None:
            inbox.put([Left(CONTROLLER, "the host was killed")])
            self._network.deliver(CONTROLLER, Left(number, "the host was killed"))

    def cut(self, name: str) -> None:
        """Hold all frames to and from a host until `restore`. Neither side learns of it."""
        with self._network.lock:
            self._network.cut.add(self.number_of(name))

    def restore(self, name: str) -> None:
        """Connect a host again after `cut`; the held frames arrive now."""
        self._network.restore(self.number_of(name))

    def forge(self, sender: str | None, parts: Parts, to: str | None = None) -> None:
        """Deliver a frame with a false ``sender`` (None: the controller)."""
        self._network.deliver(self.number_of(to), Frame(self.number_of(sender), parts))

    def lose(self, sender: str | None, to: str | None = None, count: int = 1) -> None:
        """Lose the next ``count`` frames from a host to another (None: the controller)."""
        self._network.to_lose[self.number_of(sender), self.number_of(to)] += count

    def double(self, sender: str | None, to: str | None = None, count: int = 1) -> None:
        """Deliver the next ``count`` frames from a host to another twice."""
        self._network.to_double[self.number_of(sender), self.number_of(to)] += count

    def number_of(self, name: str | None) -> int:
        """The number of a host's agent, even if it has left. Raises `NoSuchHost`."""
        if name is None:
            return CONTROLLER
        for number, host in self._hosts.items():
            if host.name == name:
                return number
        raise NoSuchHost(name, tuple(host.name for host in self._hosts.values()))

    def close(self) -> None:
        """See `Endpoint.close`."""
        for number in self._hosts:
            self._network.deliver(number, Left(CONTROLLER, "the controller is gone"))
        super().close()

    def stop(self) -> None:
        """See `Engine.stop`."""
        self.close()
        deadline = time.monotonic() + _END_WITHIN
        for host in self._hosts.values():
            if host.thread is not None:
                host.thread.join(max(0.0, deadline - time.monotonic()))
                if host.thread.is_alive():
                    raise EngineFailed(self.name, f"the agent of {host.name} does not end")


_NOTHING = pickle.dumps(None, protocol=5)


class SimulatedEngine(Engine):
    """Hosts called ``simulated-1``, …, which answer each call at once with the value None.

    After `hold` they answer nothing until `release`. ``own_seconds`` is the time used by the
    simulation itself; ``frames`` and ``calls`` count what the hosts have received.
    """

    name = "simulated"
    private = True

    def __init__(self, hosts: int, slots: int) -> None:
        self.number = CONTROLLER
        self.slots_per_agent, self.agents = slots, hosts
        self._hosts, self._slots = hosts, slots
        self._inbox = _Inbox()
        self._holding = False
        self._held: list[Arrival] = []
        self.own_seconds = 0.0
        self.frames = self.calls = 0

    def start(self, orders: bytes) -> None:
        """See `Engine.start`."""
        began = time.thread_time()
        for agent in range(1, self._hosts + 1):
            hello = protocol.Hello(
                host=f"simulated-{agent}",
                pid=agent,
                slots=self._slots,
                cores=self._slots,
                memory=1 << 34,
                gpus=[],
                python="3",
                version=__version__,
            )
            self._inbox.put([Joined(agent), Frame(agent, [protocol.encode(hello)])])
        self.own_seconds += time.thread_time() - began

    def hold(self) -> None:
        """Answer no calls until `release`."""
        self._holding = True

    def release(self) -> None:
        """Answer the calls since `hold`, and all later ones."""
        self._holding = False
        held, self._held = self._held, []
        self._inbox.put(held)

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        began = time.thread_time()
        self.frames += 1
        for envelope, inner in protocol.unbundled(list(parts)):
            answer = _ANSWERS.get(type(envelope))
            if isinstance(envelope, protocol.Run):
                self._run(to, envelope, inner)
            elif answer is not None:
                self._inbox.put([Frame(to, [protocol.encode(answer(envelope))])])
        self.own_seconds += time.thread_time() - began

    def _run(self, to: int, run: protocol.Run, parts: Parts) -> None:
        self.calls += run.count
        calls = protocol.decode_calls(parts[1])
        results = protocol.Results(
            run.slot, [(task, True, 0.0, _NOTHING, 0) for task, _, _, _, _ in calls]
        )
        frame = Frame(to, [protocol.encode(results)])
        if self._holding:
            self._held.append(frame)
        else:
            self._inbox.put([frame])

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        return self._inbox.take()

    def descriptors(self) -> Sequence[int]:
        """See `Endpoint.descriptors`."""
        return [self._inbox.descriptor]

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        return None

    def close(self) -> None:
        """See `Endpoint.close`."""
        self._inbox.close()

    def stop(self) -> None:
        """See `Engine.stop`."""
        self.close()


_ANSWERS: dict[type, Callable[..., protocol.Envelope]] = {
    protocol.Recall: lambda asked: protocol.GivenBack(asked.slot, asked.ticket, [], -1),
    protocol.Ping: lambda asked: protocol.Pong(asked.ticket),
    protocol.Housekeeping: lambda asked: protocol.HousekeepingDone(asked.ticket, True, "0"),
    protocol.Stop: lambda asked: protocol.SlotEnded(asked.slot, -9, b""),
}


def open_endpoint(hosts: int = 3, slots: int | Sequence[int] | None = None) -> FakeEngine:
    """The controller's endpoint, see `FakeEngine`."""
    return FakeEngine(hosts, slots)
