"""How a slot sends and receives: over sockets, through a thread's queue, or through its agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from encamp.wire.frames import Parts
from encamp.wire.protocol import Message

if TYPE_CHECKING:
    from encamp.slot.small_messages import TaskShortcut

T = TypeVar("T")


class Connection(Protocol):
    """A slot's connection to its agent and to other slots."""

    @property
    def shortcut(self) -> TaskShortcut | None:
        """The shortcut for small messages, if there is one."""

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """Send to the agent. ``message`` is the envelope of what the agent has to pass on."""

    def send_to(self, slot: int, parts: Parts) -> bool:
        """Send to another slot of this host over a link; False if there is none."""

    def until(self, found: Callable[[], T | None], timeout: float | None) -> T | None:
        """Wait until ``found``, called after each arrival, returns something other than None.

        Returns that, or None on timeout. What arrives is given to `Slot.take`.
        """

    def wake_waiters(self) -> None:
        """Wake all threads that wait in `until`."""
