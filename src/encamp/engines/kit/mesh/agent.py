"""An agent's end of the mesh, in the process that `begin` has started."""

from __future__ import annotations

import os
import select
import sys
import time

import msgspec

from encamp.engines.base import CONTROLLER, Left
from encamp.engines.kit.begin import Spec
from encamp.engines.kit.mesh.identity import Identity
from encamp.engines.kit.mesh.link import Link
from encamp.engines.kit.mesh.mesh import Address, Mesh, addresses
from encamp.engines.kit.sentinel import Sentinel
from encamp.errors import EngineFailed

_REACH_WITHIN = 60.0
"""Seconds that the controller has to answer: it may be at work."""


class MeshAgent(Mesh):
    """An agent's end. It ends with the controller, and with the process that has started it."""

    def __init__(self, number: int, identity: Identity, slots: int, process: int) -> None:
        super().__init__(number, identity)
        self.slots = slots
        self._starter = Sentinel(process)
        if os.getppid() != process:
            raise EngineFailed("mesh", "the process that has started it has ended")
        self._poll.register(self._starter.fileno(), select.EPOLLIN)

    def reach(self, controller: list[Address]) -> None:
        """Connect to the controller, by the first of its addresses that works. Blocks.

        Raises `EngineFailed`.
        """
        why = "it has no address"
        for address in controller:
            try:
                link = self.dial(address)
            except OSError as exc:
                why = str(exc.strerror)
                continue
            deadline = time.monotonic() + _REACH_WITHIN
            link.deadline = deadline if link.shaken else link.deadline
            while link.fileno() >= 0 and not link.greeted:
                self._poll.poll(max(0.0, min(link.deadline - time.monotonic(), 1.0)))
                link.deadline = max(link.deadline, deadline) if link.shaken else link.deadline
                self._look()
            if link.greeted:
                return
            why = "it did not let this agent in"
        raise EngineFailed("mesh", f"the controller is not reached at {_listed(controller)}: {why}")

    def _look(self) -> None:
        kept = list(self.receive())
        if any(isinstance(arrival, Left) for arrival in kept):
            raise EngineFailed("mesh", "the process that has started it has ended")
        self._come[:0] = kept

    def greet(self, link: Link) -> None:
        """See `Mesh.greet`; where the controller is reached from, others reach this agent."""
        if CONTROLLER not in self._ways:
            self.listen(link.here)
        super().greet(link)

    def ready(self, fd: int) -> None:
        """The process that has started this one has ended: so does this, and all are told."""
        self._poll.unregister(fd)
        for link in list(self._links.values()):
            link.drop()
            link.finish()
        self._come.append(Left(CONTROLLER, "the process that has started the agent has ended"))

    def close(self) -> None:
        """See `Endpoint.close`."""
        super().close()
        self._starter.close()


def _listed(controller: list[Address]) -> str:
    return ", ".join(addresses(controller)) or "no address"


def join() -> MeshAgent:
    """The end of an agent that `begin` has started, which tells it what it needs by a pipe."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    end = MeshAgent(spec.number, Identity(spec.certificate, spec.key), spec.slots, spec.process)
    end.reach(spec.dial)
    return end
