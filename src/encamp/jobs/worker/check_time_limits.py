"""Whether an attempt has exceeded its time limit, or its running step that of the step.

This module only checks; the exception makes `encamp.jobs.worker.slots.SupervisedSlot.run` stop the
slot. In the slot, `encamp.jobs.worker.run_command` then ends a command line: SIGTERM, and SIGKILL
after `encamp.timeouts.GRACE`. A Python step is interrupted by `encamp.errors.Stopped`.
"""

from __future__ import annotations

from encamp.errors import TimeLimitExceeded
from encamp.loop.time_limit_clock import RunningTime


class TimeLimits:
    """How long an attempt and its step have run, without time in which this process was stopped.

    ``limit`` is for all steps together, from the beginning of the first.
    """

    def __init__(self, task: str, limit: float | None) -> None:
        self._task, self._limit = task, limit
        self._time = RunningTime()
        self._checked = self._time()
        self._step: str | None = None
        self._step_limit: float | None = None
        self._step_began = 0.0
        self._began: float | None = None

    def step_begins(self, step: str | None, limit: float | None, ago: float) -> None:
        """Record that a step began ``ago`` seconds ago; without a name, that the steps are over."""
        self._step, self._step_limit = step, limit
        # While this process was stopped, so was its slot.
        self._step_began = max(self._checked, self._time() - ago)
        if self._began is None:
            self._began = self._step_began

    def check(self) -> None:
        """Raise `TimeLimitExceeded` if the step or the task has run longer than its limit."""
        now = self._checked = self._time()
        if self._step is None or self._began is None:
            return
        if self._step_limit is not None and now - self._step_began > self._step_limit:
            raise TimeLimitExceeded(self._task, self._step, self._step_limit)
        if self._limit is not None and now - self._began > self._limit:
            raise TimeLimitExceeded(self._task, None, self._limit)
