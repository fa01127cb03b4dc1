"""The state of a run for its display, `encamp status` and the report's page.

During a run, ``status.json`` in the job's folder holds its state, for other terminals and
hosts, and ``report.html`` is the report so far. Both take only a small part of the time.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Any

from encamp.errors import EncampError
from encamp.job_status import FailedTask, JobStatus, RunningTask, State
from encamp.jobs.display.time_left import RunTimes
from encamp.jobs.progress_interface import Shielded
from encamp.jobs.report.status_file import WRITTEN_EVERY, write_status
from encamp.jobs.run_clock import Clock
from encamp.reports import TaskReport
from encamp.storage.disk.trusted_files import TrustedFolder

DISPLAYED_EVERY = 0.5
"""Seconds between two updates of the display."""
_DRAWN_EVERY = 4.0
"""Minimum number of seconds between two pages of the report."""
_SHARE = 50
"""Writing pages takes at most one fiftieth of the time."""
_PAGE_OF_A_TASK = 2e-5
"""Seconds that a page may take for each task: the first page is written accordingly late."""
_MOST_RUNNING = 100
_MOST_FAILED = 20


class Throttle:
    """When to repeat an action that may take only a certain part of the time."""

    def __init__(self, every: float, first: float | None = None) -> None:
        self._every = self.pause = every
        self._next = time.monotonic() + (every if first is None else first)

    def __call__(self) -> bool:
        """Whether it is time for the action."""
        return time.monotonic() >= self._next

    def done(self, took: float) -> None:
        """Record how many seconds the action took."""
        self.pause = max(self._every, took * _SHARE)
        self._next = time.monotonic() + self.pause


class RunMonitor:
    """Follows one run, in the thread that runs it.

    ``draw`` writes the report's page; it gets the state of the run, and the seconds until the next
    page, if known.
    """

    def __init__(
        self,
        name: str,
        tasks: int,
        slots: int | None,
        clock: Clock,
        progress: Shielded,
        folder: TrustedFolder,
        controller: str,
        draw: Callable[[JobStatus, float], None],
    ) -> None:
        self._name, self._tasks, self._slots = name, tasks, slots
        self._clock, self._progress, self._folder = clock, progress, folder
        self._controller, self._draw = controller, draw
        self._counts: Counter[State] = Counter()
        self._failed: deque[FailedTask] = deque(maxlen=_MOST_FAILED)
        self._since: dict[str, float] = {}
        """When each running task was first seen running."""
        self._reports_running = False
        """Whether the executor reports which tasks run."""
        self._times = RunTimes()
        self._mirrored = 0
        self._display = Throttle(DISPLAYED_EVERY, 0.0)
        self._file = Throttle(WRITTEN_EVERY)
        self._page = Throttle(_DRAWN_EVERY, max(_DRAWN_EVERY, tasks * _PAGE_OF_A_TASK * _SHARE))

    @property
    def pause(self) -> float:
        """Seconds until the next update is due."""
        return DISPLAYED_EVERY if self._progress.wants_status else WRITTEN_EVERY

    def submitted(self) -> None:
        """Record that a task was submitted."""
        if self._times.first is None:
            self._times.first = self._clock.now()

    def up_to_date(self) -> None:
        """Record that a task did not have to run."""
        self._counts["up to date"] += 1

    def ended(self, task: TaskReport) -> None:
        """Record that a task has ended in this run."""
        self._counts[task.state] += 1
        self._since.pop(task.name, None)
        if task.state == "failed":
            self._failed.append(FailedTask(task.name, task.why))
        if task.state in ("done", "failed") and task.attempts:
            self._times.ended(task.attempts[-1])
            for attempt in task.attempts:
                self._mirrored += attempt.bytes_mirrored + attempt.bytes_shared

    def look(
        self,
        futures: Mapping[Future[Any], str],
        attempt: Callable[[str], int],
        *,
        stopping: bool = False,
    ) -> None:
        """Report the state of the run to the display, the file and the page, where it is due."""
        display = self._progress.wants_status and self._display()
        file = self._file() and self._times.first is not None
        if not (display or file):
            return
        status = self._status(futures, attempt, stopping)
        if display:
            self._progress.status(status)
            self._display.done(0.0)
        if file:
            self._write(status)
            if self._page() and not stopping:
                began = time.monotonic()
                with suppress(EncampError, OSError):  # the one at the end reports what is wrong
                    self._draw(status, self._page.pause)
                self._page.done(time.monotonic() - began)

    def _status(
        self, futures: Mapping[Future[Any], str], attempt: Callable[[str], int], stopping: bool
    ) -> JobStatus:
        now = self._clock.now()
        running = [name for future, name in futures.items() if future.running()]
        self._reports_running = self._reports_running or bool(running)
        self._since = {name: self._since.get(name, now) for name in running}
        counts = dict(self._counts)
        waiting = self._tasks - self._counts.total() - len(running)
        states: tuple[tuple[State, int], ...] = (("running", len(running)), ("waiting", waiting))
        counts |= {state: number for state, number in states if number > 0}
        since = list(self._since.values())
        oldest = sorted(self._since.items(), key=lambda one: one[1])
        return JobStatus(
            name=self._name,
            folder=str(self._folder.path),
            state="stopping" if stopping else "running",
            controller=self._controller,
            now=now,
            started=self._clock.began,
            tasks=self._tasks,
            counts=counts,
            handed_over=0 if self._reports_running else len(futures),
            running=[
                RunningTask(name, attempt(name), since)
                for name, since in islice(oldest, _MOST_RUNNING)
            ],
            failed=list(self._failed),
            left=None if stopping else self._times.left(now, since, waiting, self._slots),
            slots=self._slots,
            bytes_mirrored=self._mirrored,
        )

    def _write(self, status: JobStatus) -> None:
        began = time.monotonic()
        with suppress(EncampError, OSError):
            write_status(status, self._folder)
        self._file.done(time.monotonic() - began)
