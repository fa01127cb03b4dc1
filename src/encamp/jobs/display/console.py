"""What a person at the console sees of a run: a live display, or plain lines off a terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from encamp.errors import printable, shown
from encamp.jobs.display.progress import Progress
from encamp.jobs.display.screen import Screen
from encamp.jobs.report.table import NAME as TABLE
from encamp.model import AttemptReport, JobReport, State, TaskReport
from encamp.storage.sizes import counted, size_text

_STYLES = {
    "done": "green",
    "failed": "bold red",
    "blocked": "yellow",
    "up to date": "dim",
    "to do": "cyan",
    "waiting": "dim",
}
_LISTED = 10
"""How many failures are shown with their logs."""


def console_progress(*, quiet: bool, dry_run: bool) -> Progress:
    """The right kind of progress for where standard error goes."""
    screen = cast(IO[str], Screen(sys.stderr))
    console = Console(file=screen, highlight=False, soft_wrap=True)
    if dry_run:
        return _Listing(console)
    if quiet:
        return _Failures(console)
    return _Live(console) if console.is_terminal else _Lines(console)


class _Failures:
    """Says what went wrong, and nothing else."""

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

    def _print(self, text: str | Text, style: str = "") -> None:
        plain = Text(shown(text)) if isinstance(text, str) else text
        self.console.print(plain, style=style)

    def _failures(self, report: JobReport) -> None:
        for warning in report.warnings:
            self._print(f"warning: {warning}", "yellow")
        failed = list(report.of_state("failed"))
        for task in failed[:_LISTED]:
            self._print(f"failed: {printable(task.name)}", "bold red")
            self._print(f"  {task.why}")
            for line in task.log_tail.splitlines()[-5:]:
                self._print(f"  | {printable(line)}", "dim")
            if task.kept:
                self._print(f"  its folder was kept: {printable(task.kept)}")
        if len(failed) > _LISTED:
            self._print(f"… and {len(failed) - _LISTED} more; the report lists them all")


class _Summary(_Failures):
    def began(self, job: str, tasks: int, workers: int | None) -> None:
        super().began(job, tasks, workers)
        where = "" if workers is None else f" in {counted(workers, 'slot')}"
        self._print(f"{printable(job)}: {counted(tasks, 'task')}{where}")

    def finished(self, report: JobReport) -> None:
        self._failures(report)
        states: tuple[State, ...] = ("done", "up to date", "failed", "blocked", "waiting")
        found = Counter(report.states())
        counts = [f"{found[state]} {state}" for state in states if found[state]]
        counts += [f"{report.not_selected} not selected"] if report.not_selected else []
        mirrored = sum(a.bytes_mirrored + a.bytes_shared for a in _attempts_of_this_run(report))
        seconds = report.ended - report.started
        self._print(
            f"{printable(report.name)}: {', '.join(counts)} in {time_text(seconds)}, "
            f"{size_text(mirrored)} mirrored"
        )
        if Path(report.folder, TABLE).exists():
            self._print(f"table: {printable(report.folder)}/{TABLE}")
        self._print(f"report: {printable(report.folder)}/report.html")
        self._drain()


def _attempts_of_this_run(report: JobReport) -> Iterator[AttemptReport]:
    ran = report.of_state("done", "failed")
    attempts = (attempt for task in ran for attempt in task.attempts)
    return (attempt for attempt in attempts if attempt.submitted >= report.started)


def time_text(seconds: float) -> str:
    """``"1.5 s"`` and the like."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


class _Lines(_Summary):
    """A line for every task that ends."""

    def retried(self, task: str, attempt: int, error: str) -> None:
        self._print(f"try {attempt} of {printable(task)} failed, trying again: {error}")

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
        return line
    last = task.attempts[-1]
    seconds = sum(phase.seconds for phase in last.phases)
    where = f" on {last.where.host} ({last.where.worker})" if last.where else ""
    return f"{line}{where} in {time_text(seconds)}"


class _Live(_Summary):
    """A bar with counts, bytes and the time that is left; failures are printed above it."""

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        super().began(job, tasks, workers)
        self.counts: dict[str, int] = {}
        self.running = 0
        self.bytes = 0
        self.bar = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[states]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.id: TaskID = self.bar.add_task(printable(job), total=tasks, states="")
        self.bar.start()

    def submitted(self, task: str, attempt: int) -> None:
        self.running += 1
        self._update(0)

    def retried(self, task: str, attempt: int, error: str) -> None:
        self.running -= 1
        self._print(f"try {attempt} of {printable(task)} failed, trying again: {error}", "yellow")

    def ended(self, task: TaskReport) -> None:
        super().ended(task)
        if task.state in ("done", "failed") and task.attempts:
            self.running -= 1
            self.bytes += sum(a.bytes_mirrored + a.bytes_shared for a in task.attempts)
        self.counts[task.state] = self.counts.get(task.state, 0) + 1
        if task.state in ("failed", "blocked"):
            self._print(_line(task), _STYLES[task.state])
        self._update(1)

    def _update(self, advance: int) -> None:
        shown = [f"{count} {state}" for state, count in self.counts.items()]
        states = ", ".join([*shown, f"{self.running} in hand", size_text(self.bytes)])
        self.bar.update(self.id, advance=advance, states=states)

    def finished(self, report: JobReport) -> None:
        self.bar.stop()
        super().finished(report)


class _Listing(_Failures):
    """What a dry run found, on standard output."""

    def ended(self, task: TaskReport) -> None:
        super().ended(task)
        self._line(
            f"{task.state:10}  {printable(task.name)}" + (f"  ({task.why})" if task.why else "")
        )

    def finished(self, report: JobReport) -> None:
        self._failures(report)
        todo, kept = report.count("to do"), report.count("up to date")
        self._line(f"{printable(report.name)}: {todo} to do, {kept} up to date; nothing was run")

    @staticmethod
    def _line(text: str) -> None:
        print(shown(text))  # noqa: T201 - what the user asked for
