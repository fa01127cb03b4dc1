"""What one end has to send: messages of one turn to one receiver go in one frame, sealed.

What is for an agent in the controller's own process goes there at once, and needs no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from encamp.wire.frames import MOST_PARTS, Parts
from encamp.wire.protocol import Bundle, encode
from encamp.wire.seal import Seal

_BUNDLE = 1 << 20
"""Bytes that are collected for one frame at most."""


class Network(Protocol):
    """What carries frames: an end of an engine."""

    def send(self, to: int, parts: Parts) -> None:
        """Send a frame."""


class Outbox:
    """Messages for an engine's network; for the thread that drives the pump."""

    def __init__(self, end: Network) -> None:
        self._end = end
        self.seal: Seal | None = None
        self.near: Callable[[Parts], None] | None = None
        """Takes what is for the only agent, where that is in this process."""
        self.waiting: dict[int, list[Parts]] = {}
        """What was posted and has not gone."""
        self._sizes: dict[int, int] = {}

    def post(self, to: int, parts: Parts) -> None:
        """Send a message with the next `flush`."""
        if self.near is not None:
            self.near(parts)
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
        if self.near is not None:
            self.near(parts)
        elif to in self.waiting:
            self.post(to, parts)
            if to in self.waiting:  # it may have gone, for its size
                self._send(to)
        else:
            self._end.send(to, self.seal.seal(to, parts) if self.seal is not None else parts)

    def flush(self) -> None:
        """Send what was posted."""
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
        self._end.send(to, self.seal.seal(to, parts) if self.seal is not None else parts)
