"""An agent's end of the mesh, in a process that `start_agents` has started."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from encamp.engines.engine_interface import CONTROLLER, Left
from encamp.engines.kit.mesh.certificate import Identity
from encamp.engines.kit.mesh.control_messages import Address, Greeting
from encamp.engines.kit.mesh.endpoint import MeshEndpoint, addresses
from encamp.engines.kit.mesh.tls_connection import TLSConnection
from encamp.engines.kit.start_agents import Spec
from encamp.engines.kit.wait_for_process import Sentinel
from encamp.errors import EngineFailed
from encamp.timeouts import GREETED, STARTS


class MeshAgent(MeshEndpoint):
    """An agent's endpoint. It ends with the controller, and with the process that started it."""

    def __init__(self, number: int, identity: Identity, slots: int, process: int) -> None:
        super().__init__(number, identity)
        self.slots = slots
        self._hosts: Sequence[str] = ()
        self._starter = Sentinel(process)
        if os.getppid() != process:
            raise EngineFailed("mesh", "the process that started it has ended")
        self._poll.register(self._starter.fileno(), select.EPOLLIN)

    def reach(
        self,
        controller: list[Address],
        tunnel: socket.socket | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        """Connect to the controller, by the first address that works or the tunnel. Blocks.

        An agent with a tunnel listens on ``hosts``, its addresses at which others may reach it.
        Raises `EngineFailed`.
        """
        self._hosts = hosts
        ways: list[Callable[[], TLSConnection]] = [
            partial(self.dial, address) for address in controller
        ]
        if tunnel is not None:
            ways.append(partial(self.enter, tunnel))
        why = "it has no address"
        for way in ways:
            try:
                link = way()
            except OSError as exc:
                why = str(exc.strerror)
                continue
            if self._comes_by(link):
                break
            why = "it refused this agent"
        else:
            where = ", ".join(addresses(controller)) or "no address"
            raise EngineFailed("mesh", f"the controller cannot be reached at {where}: {why}")
        if tunnel is not None and self._peers[CONTROLLER].link is not link:
            self._end(link, ConnectionError("it is not needed"))
        elif tunnel is not None and not link.tunnelled:
            tunnel.close()

    def _comes_by(self, link: TLSConnection) -> bool:
        """Whether the controller accepts this connection, or opens one itself in the meantime."""
        began = time.monotonic()
        while link.fileno() >= 0 and not self._reached:
            self._poll.poll(max(0.0, min(link.deadline - time.monotonic(), 1.0)))
            if link.connected:
                within = STARTS if link.shaken else GREETED
                link.deadline = max(link.deadline, began + within)
            self._look()
        return self._reached

    @property
    def _reached(self) -> bool:
        peer = self._peers.get(CONTROLLER)
        return peer is not None and peer.link is not None

    def knows(self, greeting: Greeting) -> bool:
        """See `MeshEndpoint.knows`: the controller may connect only while it is not connected."""
        return greeting.number != CONTROLLER or not self._reached

    def _look(self) -> None:
        kept = list(self.receive())
        if any(isinstance(arrival, Left) for arrival in kept):
            raise EngineFailed("mesh", "the process that started it has ended")
        self._arrived[:0] = kept

    def greet(self, link: TLSConnection) -> None:
        """See `MeshEndpoint.greet`.

        Other agents reach this one at the address that the controller sees.
        """
        if CONTROLLER not in self._peers:
            for host in self._hosts if link.tunnelled else [link.here]:
                with suppress(OSError):  # the address may be that of a router in between
                    self.listen(host)
        super().greet(link)

    def ready(self, fd: int) -> None:
        """The process that has started this one has ended: inform all ends, and end, too."""
        if fd != self._starter.fileno():
            return
        self._poll.unregister(fd)
        for link in list(self._links.values()):
            link.drop()
            link.finish()
        self._arrived.append(Left(CONTROLLER, "the process that started the agent has ended"))

    def close(self) -> None:
        """See `Endpoint.close`."""
        super().close()
        self._starter.close()


def join() -> MeshAgent:
    """The endpoint of an agent that `start_agents` has started; reads its settings from a pipe."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return join_with(spec)


def join_with(spec: Spec) -> MeshAgent:
    """The endpoint of an agent with these settings. Raises `EngineFailed`."""
    endpoint = MeshAgent(
        spec.number, Identity(spec.certificate, spec.key), spec.slots, spec.process
    )
    endpoint.reach(spec.dial, _tunnel(spec.tunnel), spec.hosts)
    return endpoint


def _tunnel(fd: int | None) -> socket.socket | None:
    if fd is None:
        return None
    tunnel = socket.socket(fileno=fd)
    tunnel.set_inheritable(False)
    tunnel.setblocking(False)
    return tunnel
