"""How many calls are sent ahead to a slot, so that it does not have to wait for more."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from encamp.cluster.task import SpawnedTask, usual_seconds

HORIZON = 0.02
"""Seconds of work that are sent ahead to a slot."""
OVERHEAD = 5e-6
"""Seconds of a slot for a call in addition to the call's own time."""
UNDIVIDED = 0.001
"""Seconds of waiting work that are not divided between busy slots: they would wait for it longer
than they would gain."""
MOST_CALLS = 4000
"""Maximum number of calls that are sent ahead to a slot."""


def calls_ahead(task: Future[Any], most: int) -> int:
    """How many calls like this one keep a slot busy while the next are being sent.

    At most ``most``; 0 if it is not known how long they take.
    """
    seconds = usual_seconds(task) if isinstance(task, SpawnedTask) else -1.0
    return 0 if seconds < 0 else int(min(HORIZON / max(seconds, 1e-6), most))
