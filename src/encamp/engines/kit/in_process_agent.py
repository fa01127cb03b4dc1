"""The endpoint of an agent in the controller's process, which calls it directly."""

from __future__ import annotations

from collections.abc import Sequence

from encamp.engines.engine_interface import Arrival, Endpoint
from encamp.wire.frames import Buffer


class InProcessEndpoint(Endpoint):
    """Has the agent's number and cores; carries no frames."""

    def __init__(self, number: int, cores: Sequence[Sequence[int]] = ()) -> None:
        self.number, self.cores = number, cores

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        return ()

    def descriptors(self) -> Sequence[int]:
        """See `Endpoint.descriptors`."""
        return ()

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        return None

    def close(self) -> None:
        """See `Endpoint.close`."""
