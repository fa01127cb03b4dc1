"""The bare mesh: agents are processes of this host. For tests, and for the agents themselves.

Engines that start agents through processes of another system run ``encamp.agent mesh`` there, so
that an agent does not need that system's library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from encamp.engines.kit.mesh.agent import MeshAgent
from encamp.engines.kit.mesh.agent import join as _join
from encamp.engines.kit.mesh.engine import ExpectedAgent, MeshEngine, shares
from encamp.engines.kit.start_agents import begin, end
from encamp.number_checks import whole
from encamp.timeouts import ENDS

_HERE = "127.0.0.1"


class BareMesh(MeshEngine):
    """An engine with ``agents`` processes and ``slots`` slots in total on this host."""

    def __init__(self, slots: int, agents: int, restarts: int, *, relays: bool) -> None:
        super().__init__("mesh", restarts)
        self.relays = relays
        self._shares = [count for count in shares(slots, [slots] * agents) if count]

    def begin(self) -> None:
        """See `MeshEngine.begin`."""
        each = self._shares if self.whole else [1] * sum(self._shares)
        self._begin(self.expect("here", "this host", each))
        self.agents = len(each)

    def begin_again(self, agent: ExpectedAgent) -> None:
        """See `MeshEngine.begin_again`."""
        self._begin(self.expect_again(agent))

    def _begin(self, agents: Sequence[ExpectedAgent]) -> None:
        order = self.order([self.listen(_HERE)])
        numbers = {agent.number: agent.slots for agent in agents}
        for number, why in begin(order, numbers, {}, self._ended).items():
            self.could_not_join(number, why)

    def _ended(self, number: int, words: str) -> None:
        self.call_soon(partial(self.could_not_join, number, words))

    def end_by_force(self, agents: Iterable[ExpectedAgent]) -> None:
        """See `MeshEngine.end_by_force`."""
        end(self.run)

    def release(self) -> None:
        """See `MeshEngine.release`."""
        end(self.run, ENDS)


def open_endpoint(
    *, slots: int = 2, agents: int = 2, restarts: int = 3, relays: bool = False
) -> BareMesh:
    """The controller's end."""
    return BareMesh(whole("slots", slots, 1), whole("agents", agents, 1), restarts, relays=relays)


def join(_: Sequence[str]) -> MeshAgent:
    """An agent's end, see `encamp.engines.kit.mesh.agent.join`."""
    return _join()
