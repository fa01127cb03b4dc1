"""What a run tells those who watch it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from encamp.model import JobReport, TaskReport


class Progress(Protocol):
    """Told of a run's progress, always from the thread that runs the job."""

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        """A run begins; ``workers`` is None where the executor does not say."""

    def submitted(self, task: str, attempt: int) -> None:
        """A task was handed to the executor."""

    def retried(self, task: str, attempt: int, error: str) -> None:
        """A try failed and another follows."""

    def ended(self, task: TaskReport) -> None:
        """A task is done, failed, blocked, up to date or (dry run) to do."""

    def finished(self, report: JobReport) -> None:
        """The run is over; the report is written."""


class Silent:
    """Says nothing."""

    def began(self, job: str, tasks: int, workers: int | None) -> None: ...

    def submitted(self, task: str, attempt: int) -> None: ...

    def retried(self, task: str, attempt: int, error: str) -> None: ...

    def ended(self, task: TaskReport) -> None: ...

    def finished(self, report: JobReport) -> None: ...


def progress_here() -> Progress:
    """What suits a script that says nothing about it: a display on a terminal, else silence."""
    if not sys.stderr.isatty():
        return Silent()
    from encamp.jobs.console import console_progress

    return console_progress(quiet=False, dry_run=False)
