"""How many jobs of a dispatch are taken ahead of time, so that no slot waits for the next one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from encamp.cluster.sent_ahead import HORIZON
from encamp.cluster.task import SpawnedTask, usual_seconds

MOST_JOBS = 100
"""Maximum number of jobs of a dispatch taken ahead for a slot, if ``prefetch`` is not given."""


def calls_ahead(task: Future[Any]) -> int:
    """How many calls like this one keep a slot busy while the next are being sent."""
    seconds = usual_seconds(task) if isinstance(task, SpawnedTask) else -1.0
    return 0 if seconds < 0 else int(min(HORIZON / max(seconds, 1e-6), MOST_JOBS))
