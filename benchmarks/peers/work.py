"""What the peers' workers run; a module of its own, so that every worker can import it."""

from __future__ import annotations

from typing import Any


def increment(number: int) -> int:
    """A task that does next to nothing."""
    return number + 1


def echo(machine: Any) -> None:
    """Send every message back from a PyOPUS task, until one is None."""
    while True:
        received = machine.receiveMessage()
        if received and received[1] is None:
            return
        if received:
            machine.sendMessage(*received)


def same(value: Any) -> Any:
    """A message back."""
    return value


class Echo:
    """An actor of Dask's that sends messages back."""

    def back(self, value: Any) -> Any:
        """A message back."""
        return value
