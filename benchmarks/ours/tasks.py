"""What encamp's slots run besides the peers' work."""

from __future__ import annotations

from typing import Any

import encamp
from benchmarks.peers.rates import messages


def echo() -> None:
    """Send every message back, until one is None."""
    me = encamp.current_task()
    while (got := me.receive()) is not None and got.message is not None:
        me.send(got.source, got.message)


def messages_with_a_task(cluster: encamp.Cluster) -> dict[str, Any]:
    """Measure messages from the program to a task and back."""
    task = cluster.spawn(echo, notify=False)

    def exchange(message: Any) -> Any:
        cluster.send(task, message)
        got = cluster.receive()
        assert got is not None
        return got.message

    found = messages(exchange)
    cluster.send(task, None)
    return found


def exchange_with(other: int) -> dict[str, Any]:
    """Measure messages to another task and back."""
    me = encamp.current_task()

    def exchange(message: Any) -> Any:
        me.send(other, message)
        got = me.receive()
        assert got is not None
        return got.message

    return messages(exchange)
