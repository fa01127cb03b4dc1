"""A clock for time limits, which stops while this process is stopped."""

from __future__ import annotations

import time

NOTICED = 1.0
"""A longer time between two readings counts as one in which the process was stopped (seconds)."""


class RunningTime:
    """Elapsed seconds, without those in which this process was stopped (SIGSTOP, a suspend).

    What it supervises was usually stopped with it. It must be read more often than every
    ``noticed`` seconds; longer gaps count as a stop.
    """

    def __init__(self, noticed: float = NOTICED) -> None:
        self._noticed = noticed
        self._last = time.monotonic()
        self._stopped = 0.0

    def __call__(self) -> float:
        """Seconds since some moment in the past."""
        now = time.monotonic()
        self._stopped += max(0.0, now - self._last - self._noticed)
        self._last = now
        return now - self._stopped
