"""The engine of one machine without a network: its agent lives in the controller's process."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from encamp.engines.base import CONTROLLER, Arrival, Endpoint, Engine, Frame, Joined, Left
from encamp.wire import Buffer

_AGENT = 1


class LocalEnd(Endpoint):
    """One end of a queue in memory."""

    def __init__(self, me: int) -> None:
        self.number = me
        self._come: deque[Arrival] = deque()
        self._other: LocalEnd | None = None

    def join(self, other: LocalEnd) -> None:
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


class LocalEngine(LocalEnd, Engine):
    """Slots on this machine. ``agent_here`` is the end that the controller's process serves."""

    name = "local"
    private = True

    def __init__(self, slots: int = 0) -> None:
        super().__init__(CONTROLLER)
        self.slots_per_agent = slots
        self.agent_here = self._agent = LocalEnd(_AGENT)
        self._agent.join(self)

    def start(self, orders: bytes) -> None:
        """See `Engine.start`."""
        self.join(self._agent)
        self._agent.put(Frame(CONTROLLER, [orders]))
        self.put(Joined(_AGENT))

    def stop(self) -> None:
        """See `Engine.stop`; the agent ends with the controller's process."""
        self.close()


def open_end(slots: int | None = None) -> LocalEngine:
    """The controller's end, for ``slots`` slots or as many as this process has cores."""
    return LocalEngine(slots or 0)
