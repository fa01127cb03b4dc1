"""The display of a run in a notebook: a bar with counts and times, in the cell's output."""

from __future__ import annotations

import time
from typing import Any

from encamp.errors import shown
from encamp.job_status import JobStatus, State
from encamp.notebook_html import bar, box, heading, line, table
from encamp.reports import JobReport, TaskReport, orphans_text
from encamp.units import clock_text

_ORDER: tuple[State, ...] = ("running", "waiting", "done", "up to date", "failed", "blocked")
_MOST_RUNNING = 5
_MOST_FAILED = 5
_FIRST_AFTER = 0.5
"""Seconds before the bar is shown: shorter runs need none."""


class InNotebook:
    """A progress object that updates one output of the cell."""

    wants_whole_reports = False

    def __init__(self) -> None:
        self._handle: Any = None
        self._began = 0.0
        self._failed: list[tuple[str, str, str]] = []

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        self._job, self._began, self._failed = job, time.monotonic(), []
        self._handle = None

    def submitted(self, task: str, attempt: int) -> None:
        pass

    def retried(self, task: str, attempt: int, error: str) -> None:
        pass

    def ended(self, task: TaskReport) -> None:
        if task.state == "failed":
            self._failed.append((task.name, "failed", task.why))

    def status(self, status: JobStatus) -> None:
        if time.monotonic() - self._began < _FIRST_AFTER:
            return
        counts: dict[str, int] = {
            one: status.counts[one] for one in _ORDER if status.counts.get(one)
        }
        words = ", ".join(f"{number} {state}" for state, number in counts.items())
        times = f"elapsed {clock_text(status.now - (status.started or status.now))}"
        if status.state == "stopping":
            times += ", stopping running tasks"
        elif status.left is not None:
            times += f", about {clock_text(status.left)} left"
        ended = {one: n for one, n in counts.items() if one not in ("running", "waiting")}
        order = {**ended, **counts}
        running = [(one.name, clock_text(status.now - one.since)) for one in status.running]
        parts = [heading(status.name, words), bar(order), line(times)]
        if running:
            more = status.counts.get("running", 0) - min(len(running), _MOST_RUNNING)
            parts.append(table(("running", "for"), running[:_MOST_RUNNING], more))
        self._show(box(*parts, self._failures()), f"{status.name}: {words}; {times}")

    def finished(self, report: JobReport) -> None:
        """Show the result in place of the bar; the report, as the cell's value, has its own bar."""
        notes = [f"warning: {warning}" for warning in report.warnings]
        notes += [orphans_text(report.orphans, report.destination)] if report.orphans else []
        head = heading(report.name, report.words())
        where = line(f"report: {report.folder}/report.html")
        self._show(box(head, *map(line, notes), self._failures(), where), str(report))

    def _failures(self) -> str:
        if not self._failed:
            return ""
        some = self._failed[:_MOST_FAILED]
        return table(("task", "", "why"), some, len(self._failed) - len(some))

    def _show(self, markup: str, text: str) -> None:
        from IPython.core import display_functions

        display: Any = display_functions.display
        data = {"text/html": markup, "text/plain": shown(text)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
