"""The interfaces between an agent and its slots (processes, threads, or the agent itself)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from encamp.agent.rescue import Rescues
from encamp.engines.engine_interface import Endpoint
from encamp.loop.pump import Pump
from encamp.slot.small_messages import EngineShortcut
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import Orders, Recall


class OwningAgent(Protocol):
    """The part of an agent that a slot needs."""

    host: str
    number: int
    endpoint: Endpoint
    pump: Pump
    outbox: Outbox
    orders: Orders | None
    cluster: str
    shortcut: EngineShortcut | None
    in_program: bool
    to_controller: Callable[[Any, Parts], None] | None
    """Passes an envelope to the controller, if that is in this process."""
    over: bool
    rescues: Rescues

    def pass_on(self, envelope: Any, parts: Parts) -> bool:
        """Forward what a slot sends.

        Returns True for a message that the controller has received already, so that the pump may
        skip the rest of its turn.
        """

    def post(self, to: int, parts: Parts) -> None:
        """Send a message."""

    def unlink(self, slot: int) -> None:
        """Forget the links of a slot whose process has ended."""

    def end_turn(self) -> None:
        """Send what was posted in this turn of the pump."""


class AgentSlot(ABC):
    """One slot of an agent."""

    def __init__(self, agent: OwningAgent, number: int) -> None:
        self.agent, self.number = agent, number
        self.busy = 0
        """How many of the calls that it has received have not ended."""
        self.killed = False
        """Whether a process of it was killed, so that its folders might be left."""

    @abstractmethod
    def give(self, envelope: Any, parts: Parts) -> None:
        """Pass a message to the slot."""

    @abstractmethod
    def recall(self, order: Recall) -> None:
        """Make the slot give back the calls that it has not started."""

    def stop(self, life: int, ticket: int) -> None:  # noqa: B027 - most have nothing to do
        """End the running call and the slot's process, if there is one. See `Stop`."""

    def refresh(self) -> None:  # noqa: B027 - most have nothing to do
        """Make an idle slot release all that it holds. Blocks; not for the agent's own thread."""

    def work(self) -> None:  # noqa: B027 - most have nothing to do
        """Run waiting calls in the agent's own thread."""

    def begin_end(self) -> None:  # noqa: B027 - most have nothing to do
        """Ask the slot to end."""

    @abstractmethod
    def end(self, within: float) -> None:
        """Wait until the slot has ended."""
