"""A controller of the mesh and its agents, all in one process and driven by one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from encamp.engines.engine_interface import CONTROLLER, Arrival, Endpoint, Frame
from encamp.engines.kit.mesh.agent import MeshAgent
from encamp.engines.kit.mesh.certificate import Identity
from encamp.engines.kit.mesh.engine import ExpectedAgent, MeshEngine
from encamp.errors import EngineFailed
from encamp.testing.waiting import PATIENCE, until

ORDERS = b"these are the orders"


class Controller(MeshEngine):
    """A controller whose agents are ends in this process."""

    def __init__(self) -> None:
        super().__init__("mesh", 0)
        self.again: list[int] = []

    def begin(self) -> None:
        self.listen("127.0.0.1")

    def begin_again(self, agent: ExpectedAgent) -> None:
        for new in self.expect_again(agent):
            del self.known[new.number]  # it never starts
            self.again.append(agent.number)


class Net:
    """A controller and its agents, all driven by this thread."""

    def __init__(self) -> None:
        self.controller = Controller()
        self.controller.start(ORDERS)
        self.agents: dict[int, MeshAgent] = {}
        self.come: dict[int, list[Arrival]] = {CONTROLLER: []}

    @property
    def identity(self) -> Identity:
        return self.controller._identity

    def join(self, number: int | None = None, identity: Identity | None = None) -> MeshAgent:
        """An agent that has come."""
        if number is None:
            (expected,) = self.controller.expect("here", "here", [1])
            number = expected.number
        agent = MeshAgent(number, identity or self.identity, 1, os.getppid())
        failed: list[Exception] = []

        def reach() -> None:
            try:
                agent.reach(self.controller.listens)
            except EngineFailed as exc:
                failed.append(exc)

        thread = threading.Thread(target=reach)
        thread.start()
        while thread.is_alive():
            self.turn()
            thread.join(0.001)
        if failed:
            agent.close()
            raise failed[0]
        self.agents[number] = agent
        self.come[number] = []
        return agent

    def turn(self) -> None:
        """Let all ends take what is there."""
        ends: dict[int, Endpoint] = {CONTROLLER: self.controller, **self.agents}
        for number, end in ends.items():
            self.come[number] += end.receive()

    def until(self, done: Callable[[], object]) -> None:
        def look() -> object:
            self.turn()
            return done()

        until(look, PATIENCE)

    def frames(self, number: int) -> list[Frame]:
        return [one for one in self.come[number] if isinstance(one, Frame)]

    def close(self) -> None:
        for agent in self.agents.values():
            agent._release_network()
            agent._starter.close()
        self.controller._release_network()
