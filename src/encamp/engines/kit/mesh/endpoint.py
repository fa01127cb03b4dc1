"""An endpoint of the mesh: frames between any two ends over TCP inside TLS 1.3.

Agents connect to the controller. An agent that cannot reach it greets it through a tunnel, if its
engine has one; then the controller tries to connect to the agent, and if that fails, too, both use
the tunnel.

An agent with a frame for another agent asks the controller for that one's address, and connects to
it; if that fails, the frames go through the controller. A route never changes, so that the frames
of a pair keep their order. A broken connection is not reopened: frames in transit are lost, and so
one of its ends counts as lost.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from encamp.engines.engine_interface import CONTROLLER, Arrival, Endpoint, Frame, Left
from encamp.engines.kit.mesh.certificate import Identity
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
    control_in,
)
from encamp.engines.kit.mesh.tls_connection import TLSConnection, dial, prepared
from encamp.engines.kit.waker import Waker
from encamp.errors import BadFrame
from encamp.timeouts import CONNECTS, GREETS, LEAVES
from encamp.wire.frames import Buffer, Parts

_STRANGERS = 512
"""Connections that are accepted before they have sent their greeting."""
_REST = 0.5
"""Seconds without accepting connections if there are too many, or no descriptor is left."""
_SPIN = 0.0002
"""Seconds that an end polls without a pause after the last arrival."""
_OFTEN, _SELDOM = 8, 64
"""The count after a successful poll, of which each poll in vain takes 2; and for how many arrivals
polling pauses when the count is used up."""
_EVENTS = 256
_ALL: weakref.WeakSet[MeshEndpoint] = weakref.WeakSet()


class Peer:
    """Another end, and how frames reach it; until that is known, they wait."""

    def __init__(self) -> None:
        self.link: TLSConnection | None = None
        self.relayed = self.gone = False
        self.addresses: list[Address] = []
        self.dialling: TLSConnection | None = None
        self.other: TLSConnection | None = None
        """A connection that the other end has opened in the meantime."""
        self.waiting: list[Sequence[Buffer]] = []


class MeshEndpoint(Endpoint):
    """An endpoint of the mesh. It listens at the addresses that `listen` is given."""

    def __init__(self, number: int, identity: Identity) -> None:
        self.number = number
        self._identity = identity
        self._as_server = identity.context(server=True)
        self._as_client = identity.context(server=False)
        self._poll = select.epoll()
        self._waker = Waker()
        self._poll.register(self._waker.fileno(), select.EPOLLIN)
        self._listeners: dict[int, socket.socket] = {}
        self.listens: list[Address] = []
        self._links: dict[int, TLSConnection] = {}
        self._strangers: set[TLSConnection] = set()
        """Connections without a greeting yet, each until its deadline."""
        self._unread: set[TLSConnection] = set()
        self._peers: dict[int, Peer] = {}
        self._arrived: list[Arrival] = []
        self._rests_until = 0.0
        self._last = 0.0
        self._worth = _OFTEN
        """Positive: polling without a pause is worth while, see `_note_arrival`."""
        self._closed = False
        self._process = os.getpid()
        _ALL.add(self)

    # Connections

    def listen(self, host: str) -> Address:
        """Listen at an address of this host; returns it with its port. Raises OSError."""
        for address in self.listens:
            if address[0] == host:
                return address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family, backlog=256)
        listener.setblocking(False)
        self._listeners[listener.fileno()] = listener
        self._poll.register(listener.fileno(), select.EPOLLIN)
        address = (host, listener.getsockname()[1])
        self.listens.append(address)
        return address

    def wake(self) -> None:
        """Have `receive` called soon. Thread-safe; allowed even when this is closed."""
        with suppress(OSError):
            self._waker.wake()

    def _accept(self, listener: socket.socket) -> None:
        while len(self._strangers) < _STRANGERS:
            try:
                raw, _ = listener.accept()
                self._add(
                    TLSConnection(prepared(raw), self._identity, self._as_server, server=True)
                )
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor is left
                break
        self._rest()

    def _rest(self) -> None:
        """Accept no connections for a while; they wait in the kernel's queue."""
        if not self._rests_until:
            self._rests_until = time.monotonic() + _REST
            for fd in self._listeners:
                self._poll.modify(fd, 0)

    def _end_rest(self) -> None:
        if self._rests_until and self._rests_until <= time.monotonic():
            self._rests_until = 0.0
            for fd in self._listeners:
                self._poll.modify(fd, select.EPOLLIN)

    def dial(self, address: Address) -> TLSConnection:
        """Begin to connect to another end. Raises OSError."""
        return self.enter(dial(address))

    def enter(self, raw: socket.socket) -> TLSConnection:
        """Begin the handshake with the other end of a socket."""
        link = TLSConnection(raw, self._identity, self._as_client, server=False)
        self._add(link)
        return link

    def _add(self, link: TLSConnection) -> None:
        link.deadline = time.monotonic() + (GREETS if link.server else CONNECTS)
        self._links[link.fileno()] = link
        self._strangers.add(link)
        link.watched = select.EPOLLIN | (select.EPOLLOUT if link.wants_room else 0)
        self._poll.register(link.fileno(), link.watched)

    def _watch(self, link: TLSConnection) -> None:
        """Wait until its socket accepts more only while it has something to send."""
        events = select.EPOLLIN | (select.EPOLLOUT if link.wants_room else 0)
        if events != link.watched and link.fileno() >= 0:
            link.watched = events
            self._poll.modify(link.fileno(), events)

    def _serve(self, link: TLSConnection) -> None:
        """Read from a connection and handle its frames."""
        before = link.shaken
        try:
            frames = link.receive()
            if link.shaken and not before and not link.server:
                self.greet(link)
            for parts in frames:
                self._take(link, parts)
        except (OSError, EOFError, BadFrame) as exc:
            self._end(link, exc)
            return
        (self._unread.add if link.unread else self._unread.discard)(link)
        self._watch(link)

    def greet(self, link: TLSConnection) -> None:
        """Send the greeting; for ends that connect."""
        to = next((n for n, peer in self._peers.items() if peer.dialling is link), CONTROLLER)
        link.send([control(Greeting(self.number, to, self.listens))])

    def _end(self, link: TLSConnection, why: Exception) -> None:
        """Handle a connection that has ended, or could not be opened."""
        self._strangers.discard(link)
        self._unread.discard(link)
        if self._links.pop(link.fileno(), None) is not None:
            self._poll.unregister(link.fileno())
        link.close()
        for number, peer in self._peers.items():
            if peer.dialling is link:
                peer.dialling = None
                self.dial_next(number)
                return
        if link.number is not None and link.greeted:
            self.lost(link.number, link, why)

    # Frames

    def _take(self, link: TLSConnection, parts: Parts) -> None:
        if not link.greeted:
            self._handle_first_frame(link, parts)
            return
        message = control_in(parts)
        if message is None:
            self.arrived(link, parts)
        elif isinstance(message, Relay) and message.to == self.number and link.number == CONTROLLER:
            self._arrived.append(Frame(message.sender, parts[1:]))
        else:
            self.control_received(link, message, parts)

    def arrived(self, link: TLSConnection, parts: Parts) -> None:
        """Handle a frame of another end."""
        self._arrived.append(Frame(link.number, parts))  # type: ignore[arg-type]

    def _handle_first_frame(self, link: TLSConnection, parts: Parts) -> None:
        """Handle the first frame of a connection."""
        message = control_in(parts)
        if link.server:
            if (
                not isinstance(message, Greeting)
                or message.to != self.number
                or not self.knows(message)
            ):
                raise BadFrame("its greeting has a number that is not expected here")
            link.number = message.number
            self._note_greeted(link)
            self.joined(link, message)
        else:
            if not isinstance(message, Welcome):
                raise BadFrame("its first frame is not a welcome")
            link.number = message.number
            self._note_greeted(link)
            self.welcomed(link)

    def _note_greeted(self, link: TLSConnection) -> None:
        link.greeted = True
        self._strangers.discard(link)

    def knows(self, greeting: Greeting) -> bool:
        """Whether to accept an end, by its greeting."""
        return True

    def joined(self, link: TLSConnection, greeting: Greeting) -> None:
        """Answer the greeting of an end that has connected to this one."""
        link.send([control(Welcome(self.number))])
        self._offer(link, greeting.number)

    def welcomed(self, link: TLSConnection) -> None:
        """Record that another end has accepted this one."""
        number = link.number or CONTROLLER
        self._peers.setdefault(number, Peer()).dialling = None
        self.use_link(number, link)

    def control_received(self, link: TLSConnection, message: Control, parts: Parts) -> None:
        """Handle a control message of another end."""
        peer = self._peers.get(message.number) if isinstance(message, PeerAddresses) else None
        if isinstance(message, PeerAddresses) and peer is not None and link.number == CONTROLLER:
            if not message.here:
                peer.gone = True
                peer.waiting.clear()
            elif peer.link is None:
                peer.addresses = message.listens
                self.dial_next(message.number)

    def lost(self, number: int, link: TLSConnection, why: Exception) -> None:
        """Handle the end of a connection that was in use."""
        if number == CONTROLLER:
            self._peers.pop(CONTROLLER, None)
            self._arrived.append(Left(CONTROLLER, f"its connection has ended: {_reason(why)}"))
            return
        peer = self._peers[number]
        peer.gone, peer.link, peer.other = True, None, None
        peer.waiting.clear()
        self.send(CONTROLLER, [control(ConnectionLost(number))])

    # Routes

    def _offer(self, link: TLSConnection, number: int) -> None:
        """Another agent has connected: use that connection if there is no other, or attempt at one.

        (If both connect at the same time, each uses its own connection.)
        """
        peer = self._peers.setdefault(number, Peer())
        if peer.link is None and peer.dialling is None and not peer.relayed:
            self.use_link(number, link)
        else:
            peer.other = link

    def use_link(self, number: int, link: TLSConnection) -> None:
        """Send frames for another end over a connection from now on."""
        peer = self._peers[number]
        peer.link = link
        waiting, peer.waiting = peer.waiting, []
        for parts in waiting:
            link.send(parts)
        self._watch(link)

    def dial_next(self, number: int) -> None:
        """Connect to the next address of another end; else use its connection, or the relay."""
        peer = self._peers[number]
        while peer.addresses:
            with suppress(OSError):
                peer.dialling = self.dial(peer.addresses.pop(0))
                return
        if peer.link is not None or peer.gone:
            return
        if peer.other is not None:
            self.use_link(number, peer.other)
            return
        peer.relayed = True
        waiting, peer.waiting = peer.waiting, []
        for parts in waiting:
            self._relay(number, parts)

    def _relay(self, to: int, parts: Sequence[Buffer]) -> None:
        self.send(CONTROLLER, [control(Relay(self.number, to)), *parts])

    # The interface of endpoints

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        peer = self._peers.get(to)
        if peer is not None and peer.link is not None:
            peer.link.send(parts)
            if peer.link.wants_room:
                self._watch(peer.link)
        elif peer is None:
            if to != CONTROLLER and not self._closed:
                self._peers[to] = peer = Peer()
                peer.waiting.append(parts)
                self.send(CONTROLLER, [control(WhereIs(to))])
        elif peer.relayed:
            self._relay(to, parts)
        elif not peer.gone:
            peer.waiting.append(parts)

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        links = any(link.sending for link in self._links.values())
        return links or any(peer.waiting for peer in self._peers.values())

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        if self._closed:
            return ()
        unread, self._unread = self._unread, set()
        for fd, _ in self._poll.poll(0, _EVENTS):
            link = self._links.get(fd)
            if link is not None:
                unread.discard(link)
                self._serve(link)
            elif fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd == self._waker.fileno():
                self._waker.rest()
            else:
                self.ready(fd)
        for link in unread:
            self._serve(link)
        if self._strangers:
            self._end_silent()
        self._end_rest()
        arrivals, self._arrived = self._arrived, []
        if arrivals:
            self._note_arrival()
        return arrivals

    def _note_arrival(self) -> None:
        """Learn whether polling without a pause is worth while, since waking takes longer.

        It is if answers arrive at once, and is not if this process and the other share a core.
        """
        now = time.monotonic()
        if self._worth > 0:
            self._worth = _OFTEN if now - self._last < _SPIN else self._worth - 2
            if self._worth <= 0:
                self._worth = -_SELDOM
        else:
            self._worth = self._worth + 1 or _OFTEN // 2
        self._last = now

    def ready(self, fd: int) -> None:
        """Called when a descriptor that a subclass waits for is readable."""

    def _end_silent(self) -> None:
        now = time.monotonic()
        for link in [link for link in self._strangers if link.deadline <= now]:
            self._end(link, TimeoutError("it sent nothing"))

    def descriptors(self) -> Sequence[int]:
        """One descriptor, which stays the same for all connections."""
        return () if self._closed else (self._poll.fileno(),)

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        if self._arrived or self._unread:
            return 0
        if self._worth > 0 and time.monotonic() - self._last < _SPIN:
            return 0
        moments = [link.deadline for link in self._strangers]
        if self._rests_until:
            moments.append(self._rests_until)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def close(self) -> None:
        """See `Endpoint.close`."""
        if self._closed:
            return
        if self._process == os.getpid():
            self._settle()
        self._release_network()

    def _settle(self) -> None:
        """Send what still waits, then read until the others have closed, for some seconds at most.

        Closing a socket with unread data discards what it has sent (RFC 2525, 2.17).
        """
        deadline = time.monotonic() + LEAVES
        self._wait_until(lambda: not self._busy(), deadline)
        for link in list(self._links.values()):
            link.finish()
        deadline = min(deadline, time.monotonic() + 1.0)
        self._wait_until(lambda: not any(link.greeted for link in self._links.values()), deadline)

    def _busy(self) -> bool:
        return any(link.wants_room and link.greeted for link in self._links.values())

    def _wait_until(self, done: Callable[[], bool], deadline: float) -> None:
        while not done() and (left := deadline - time.monotonic()) > 0:
            self._poll.poll(min(left, 0.1))
            self.receive()

    def _release_network(self) -> None:
        self._closed = True
        for listener in self._listeners.values():
            listener.close()
        for link in self._links.values():
            link.close()
        self._listeners.clear()
        self._links.clear()
        self._strangers.clear()
        self._unread.clear()
        self._peers.clear()
        self._poll.close()
        self._waker.close()


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return str(exc.reason or exc).lower().replace("_", " ")
    return str(getattr(exc, "strerror", "") or exc).lower() or "it was closed"


def addresses(hosts: Iterable[Address]) -> list[str]:
    """Addresses as text."""
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts]


def _forked() -> None:
    """In a forked process: close the parent's connections."""
    for mesh in list(_ALL):
        if not mesh._closed:
            mesh._release_network()


os.register_at_fork(after_in_child=_forked)
