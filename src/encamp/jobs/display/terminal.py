"""The display of a run on the console: live in a terminal, plain lines otherwise."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from encamp.errors import printable, shown
from encamp.job_status import JobStatus
from encamp.jobs.display.draw_progress import STYLES, StatusView
from encamp.jobs.display.nonblocking_stderr import Screen
from encamp.jobs.progress_interface import Progress
from encamp.jobs.report.results_csv import NAME as TABLE
from encamp.reports import AttemptReport, JobReport, TaskReport, orphans_text
from encamp.short_tracebacks import brief_log
from encamp.units import counted, size_text, time_text

_LISTED = 10
"""How many failures are shown with their logs."""
_A_SECOND = 4
"""How often per second a display is drawn."""


def console_progress(*, quiet: bool, dry_run: bool) -> Progress:
    """The progress object for this kind of standard error."""
    screen = cast(IO[str], Screen(sys.stderr))
    console = Console(file=screen, highlight=False, soft_wrap=True)
    if dry_run:
        return _Listing(console)
    if quiet:
        return _Failures(console)
    return _Live(console) if console.is_terminal else _Lines(console)


class _Failures:
    """Prints only failures."""

    wants_whole_reports = False

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = 0
        self.so_far = 0

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        self.total, self.so_far = tasks, 0

    def submitted(self, task: str, attempt: int) -> None:
        pass

    def retried(self, task: str, attempt: int, error: str) -> None:
        pass

    def ended(self, task: TaskReport) -> None:
        self.so_far += 1

    def finished(self, report: JobReport) -> None:
        self._failures(report)
        self._drain()

    def _drain(self) -> None:
        if isinstance(self.console.file, Screen):
            self.console.file.drain()

    def _print(self, text: str, style: str = "") -> None:
        if self.console.is_terminal:
            self.console.print(Text(shown(text)), style=style)
        else:  # the same, but faster: very many tasks may have a line each
            self.console.file.write(f"{shown(text)}\n")

    def _print_line(self, text: str, style: str = "", indent: int = 0) -> None:
        """Print sentences, which a terminal shows with line breaks between words only."""
        if self.console.is_terminal:
            words = Padding(Text(shown(text)), (0, 0, 0, indent))
            self.console.print(words, style=style, soft_wrap=False)
        else:
            self._print(" " * indent + text, style)

    def _failures(self, report: JobReport) -> None:
        for warning in report.warnings:
            self._print_line(f"warning: {warning}", "yellow")
        failed = list(report.of_state("failed"))
        for task in failed[:_LISTED]:
            self._print(f"failed: {printable(task.name)}", "bold red")
            self._print_line(task.why, indent=2)
            for line in brief_log(task.log_tail, 5):
                self._print(f"  | {printable(line)}", "dim")
            if task.kept:
                self._print(f"  the folder was kept: {kept_text(task.kept)}")
        if len(failed) > _LISTED:
            self._print(f"… and {len(failed) - _LISTED} more; the report lists them all")


class _Summary(_Failures):
    def began(self, job: str, tasks: int, workers: int | None) -> None:
        super().began(job, tasks, workers)
        where = "" if workers is None else f" in {counted(workers, 'slot')}"
        self._print(f"{printable(job)}: {counted(tasks, 'task')}{where}")

    def finished(self, report: JobReport) -> None:
        self._failures(report)
        mirrored = sum(a.bytes_mirrored + a.bytes_shared for a in _attempts_of_this_run(report))
        self._print(f"{printable(report.name)}: {report.words()}, {size_text(mirrored)} mirrored")
        if report.orphans:
            self._print(orphans_text(report.orphans, report.destination))
        if Path(report.folder, TABLE).exists():
            self._print(f"table: {printable(report.folder)}/{TABLE}")
        self._print(f"report: {printable(report.folder)}/report.html")
        self._drain()


def _attempts_of_this_run(report: JobReport) -> Iterator[AttemptReport]:
    ran = report.of_state("done", "failed")
    attempts = (attempt for task in ran for attempt in task.attempts)
    return (attempt for attempt in attempts if attempt.submitted >= report.started)


class _Lines(_Summary):
    """Prints a line for every task that ends."""

    def retried(self, task: str, attempt: int, error: str) -> None:
        self._print(f"attempt {attempt} of {printable(task)} failed, trying again: {error}")

    def ended(self, task: TaskReport) -> None:
        super().ended(task)
        if task.state == "up to date":
            return
        width = len(str(self.total))
        self._print(f"[{self.so_far:{width}}/{self.total}] {_line(task)}")


def _line(task: TaskReport) -> str:
    line = f"{task.state} {printable(task.name)}"
    if task.state in ("blocked", "to do"):
        return f"{line}: {task.why}"
    if not task.attempts:
        return f"{line}: {task.why}" if task.why else line
    last = task.attempts[-1]
    where = f" on {last.where.host} ({last.where.worker})" if last.where else ""
    why = f": {task.why}" if task.state == "failed" else ""
    return f"{line}{where} in {time_text(task.seconds)}{why}"


class _Live(_Summary):
    """A bar with counts, times and running tasks; failures are printed above it."""

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        super().began(job, tasks, workers)
        self._status: tuple[JobStatus, float] | None = None
        self._live = Live(
            console=self.console,
            get_renderable=self._standing,
            refresh_per_second=_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _standing(self) -> RenderableType:
        if self._status is None:
            return ""
        status, taken = self._status
        return StatusView(status, time.monotonic() - taken)

    def status(self, status: JobStatus) -> None:
        self._status = status, time.monotonic()

    def retried(self, task: str, attempt: int, error: str) -> None:
        self._print_line(
            f"attempt {attempt} of {printable(task)} failed, trying again: {error}", "yellow"
        )

    def ended(self, task: TaskReport) -> None:
        super().ended(task)
        if task.state in ("failed", "blocked"):
            self._print_line(_line(task), STYLES[task.state])

    def finished(self, report: JobReport) -> None:
        self._live.stop()
        super().finished(report)


class _Listing(_Failures):
    """Prints the results of a dry run on standard output."""

    def ended(self, task: TaskReport) -> None:
        super().ended(task)
        self._line(
            f"{task.state:10}  {printable(task.name)}" + (f"  ({task.why})" if task.why else "")
        )

    def finished(self, report: JobReport) -> None:
        self._failures(report)
        self._line(f"{printable(report.name)}: {report.words()}")
        if report.orphans:
            self._line(orphans_text(report.orphans, report.destination))

    @staticmethod
    def _line(text: str) -> None:
        print(shown(text))  # noqa: T201 - what the user asked for


def kept_text(kept: str) -> str:
    """The kept folder of a failed task, without the host if it is this one."""
    return printable(kept.removeprefix(f"{socket.gethostname()}:"))
