"""Frames between two ends that one thread of one process drives: queues in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from encamp.engines.base import Arrival, Endpoint, Frame, Left
from encamp.wire.frames import Buffer


class MemoryEnd(Endpoint):
    """One end of two queues."""

    def __init__(self, me: int) -> None:
        self.number = me
        self._come: deque[Arrival] = deque()
        self._other: MemoryEnd | None = None

    def join(self, other: MemoryEnd) -> None:
        """Let this end speak to another."""
        self._other = other

    def put(self, arrival: Arrival) -> None:
        """Have this end receive something."""
        self._come.append(arrival)

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        if self._other is not None and to == self._other.number:
            self._other.put(Frame(self.number, list(parts)))

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        if not self._come:
            return ()
        come = list(self._come)
        self._come.clear()
        return come

    def descriptors(self) -> Sequence[int]:
        """None: both ends are driven by the same thread."""
        return ()

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        return 0 if self._come else None

    def close(self) -> None:
        """See `Endpoint.close`."""
        if self._other is not None:
            self._other.put(Left(self.number, "it was closed"))
            self._other = None
