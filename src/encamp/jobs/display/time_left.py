"""The estimated time left of a run, from how long its tasks have taken so far."""

from __future__ import annotations

from collections.abc import Sequence

from encamp.reports import AttemptReport

_WAVES = 2
"""After this many ended tasks per slot, the remaining time is estimated from their number."""


class RunTimes:
    """How long the tasks of a run took."""

    def __init__(self) -> None:
        self.first: float | None = None
        """When the first task was submitted."""
        self._ran, self._busy = 0, 0.0

    def ended(self, last: AttemptReport) -> None:
        """Record the attempt that ended a task."""
        self._ran += 1
        self._busy += sum([phase.seconds for phase in last.phases])

    def left(
        self, now: float, since: Sequence[float], waiting: int, slots: int | None
    ) -> float | None:
        """Estimated seconds until the end; ``since`` are the times at which running tasks began."""
        if not self._ran or self.first is None:
            return None
        slots = slots or max(1, len(since))
        if self._ran >= _WAVES * slots:
            each = (now - self.first) * slots / (self._ran + len(since) / 2)
        else:
            each = self._busy / self._ran
        ages = [now - began for began in since]
        work = each * waiting + sum(max(0.0, each - age) for age in ages)
        last = max((each - age for age in ages), default=0.0)
        return max(0.0, last, work / slots)
