"""Statistics of a server's calls: how many there were, how many failed, and their times."""

from __future__ import annotations

from collections import deque

CallStatistics = tuple[int, int, float, float]
"""Calls, failed calls, their seconds, and the mean of the last ones."""
_RECENT = 50
"""Number of latest calls that the mean time covers."""


class CallCounter:
    """Counts the calls of a server."""

    def __init__(self) -> None:
        self.calls = self._failed = 0
        self._busy = 0.0
        self._times: deque[float] = deque(maxlen=_RECENT)

    def count(self, seconds: float, *, good: bool) -> None:
        """Record that a call has ended."""
        self.calls += 1
        self._failed += not good
        self._busy += seconds
        self._times.append(seconds)

    def statistics(self) -> CallStatistics:
        """The statistics of all calls so far."""
        times = self._times
        return self.calls, self._failed, self._busy, sum(times) / len(times) if times else 0.0
