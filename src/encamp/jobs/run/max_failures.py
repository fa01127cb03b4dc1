"""``max_failures``: after how many failed tasks a run starts no more."""

from __future__ import annotations

import math

from encamp.units import counted


class MaxFailures:
    """Counts the failed tasks of a run; ``most`` is None if any number may fail."""

    def __init__(self, most: int | None) -> None:
        self._most, self._failed = most, 0
        self.counts = most is not None
        self.reached = False
        """Whether enough tasks have failed that no more are started."""

    def note_failure(self) -> bool:
        """Count a failed task; returns whether no more may fail."""
        self._failed += 1
        if self._failed != self._most:
            return False
        self.reached = True
        return True

    def most_ahead(self, workers: int) -> float:
        """How many tasks may be submitted at once, so that none of them is wasted."""
        return math.inf if self._most is None else workers + self._most - self._failed

    def warnings(self) -> list[str]:
        """Warnings for the report if tasks were not started."""
        if not self.reached:
            return []
        most = counted(self._failed, "task")
        return [f"no more tasks were started after {most} had failed; run again to continue"]
