"""Messages to be sent: those of one turn to one receiver are sealed and sent in one frame.

Messages to an agent in the controller's own process are passed to it at once, without a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from encamp.wire.frames import MOST_PARTS, Parts
from encamp.wire.protocol import Bundle, encode
from encamp.wire.seal import Seal

_BUNDLE = 1 << 20
"""When more bytes are collected for a receiver, they are sent at once."""


class Network(Protocol):
    """The sender of frames: an engine's endpoint."""

    def send(self, to: int, parts: Parts) -> None:
        """Send a frame."""


class Outbox:
    """Messages for an engine's network; for the thread that drives the pump."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.seal: Seal | None = None
        self.to_agent_here: Callable[[Parts], None] | None = None
        """Called with messages to the only agent, if that is in this process."""
        self.waiting: dict[int, list[Parts]] = {}
        """By receiver, messages that were posted and not sent yet."""
        self._sizes: dict[int, int] = {}

    def post(self, to: int, parts: Parts) -> None:
        """Send a message with the next `flush`."""
        if self.to_agent_here is not None:
            self.to_agent_here(parts)
            return
        waiting = self.waiting.get(to)
        size = sum(map(len, parts))
        if waiting is None:
            self.waiting[to], self._sizes[to] = [parts], size
            return
        self._sizes[to] += size
        waiting.append(parts)
        if self._sizes[to] > _BUNDLE or len(waiting) + len(parts) > MOST_PARTS // 64:
            self._send(to)

    def send(self, to: int, parts: Parts) -> None:
        """Send a message now, after those that were posted before."""
        if self.to_agent_here is not None:
            self.to_agent_here(parts)
        elif to in self.waiting:
            self.post(to, parts)
            if to in self.waiting:  # `post` may have sent them already
                self._send(to)
        else:
            self._network.send(to, self.seal.seal(to, parts) if self.seal is not None else parts)

    def flush(self) -> None:
        """Send all that was posted."""
        if self.waiting:
            for to in list(self.waiting):
                self._send(to)

    def _send(self, to: int) -> None:
        messages = self.waiting.pop(to)
        del self._sizes[to]
        parts = messages[0]
        if len(messages) > 1:
            counts = [len(message) for message in messages]
            parts = [encode(Bundle(counts)), *(part for message in messages for part in message)]
        self._network.send(to, self.seal.seal(to, parts) if self.seal is not None else parts)
