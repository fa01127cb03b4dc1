"""The methods that a run calls to report its progress."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Protocol

from encamp.errors import BadJob
from encamp.jobs.calling_code import caller

if TYPE_CHECKING:
    from encamp.job_status import JobStatus
    from encamp.reports import JobReport, TaskReport

_log = logging.getLogger("encamp")


class Progress(Protocol):
    """Methods that a run calls to report its progress, in the thread that runs the job.

    An exception in one of them never ends the run: it is logged once, with its traceback, and no
    method is called any more. KeyboardInterrupt stops the run cleanly, as Ctrl-C does.

    An object may also have a method ``status``: about twice a second it gets a `JobStatus`, with
    the running tasks, how many are in each state, and the estimated time left.
    """

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        """Called when a run begins; ``workers`` is None if the executor does not report it."""

    def submitted(self, task: str, attempt: int) -> None:
        """Called when a task was submitted to the executor."""

    def retried(self, task: str, attempt: int, error: str) -> None:
        """Called when an attempt failed and another follows."""

    def ended(self, task: TaskReport) -> None:
        """Called when a task is done, failed, blocked, up to date or (dry run) to do."""

    def finished(self, report: JobReport) -> None:
        """Called when the run has ended and the report is written."""


class Silent:
    """Prints nothing; the report's warnings become Python warnings."""

    wants_whole_reports = False

    def began(self, job: str, tasks: int, workers: int | None) -> None: ...

    def submitted(self, task: str, attempt: int) -> None: ...

    def retried(self, task: str, attempt: int, error: str) -> None: ...

    def ended(self, task: TaskReport) -> None: ...

    def finished(self, report: JobReport) -> None:
        for warning in report.warnings:
            warnings.warn(warning, stacklevel=caller()[0] + 1)


class Shielded:
    """Calls a progress object until it raises an error.

    Raises `BadJob` for an object without the methods.
    """

    def __init__(self, progress: Progress) -> None:
        for name in ("began", "submitted", "retried", "ended", "finished"):
            if not callable(getattr(progress, name, None)):
                raise BadJob(f"progress={progress!r}", f"it has no method {name!r}; see Progress")
        self._progress: Progress | None = progress
        self.wants_whole_reports: bool = getattr(progress, "wants_whole_reports", True)
        """Whether it uses more than state and reason of tasks that are up to date."""
        self.wants_status = callable(getattr(progress, "status", None))
        """Whether it has a method ``status``."""
        self.is_silent = type(progress) is Silent

    def began(self, job: str, tasks: int, workers: int | None) -> None:
        """See `Progress.began`."""
        self._call("began", job, tasks, workers)

    def submitted(self, task: str, attempt: int) -> None:
        """See `Progress.submitted`."""
        self._call("submitted", task, attempt)

    def retried(self, task: str, attempt: int, error: str) -> None:
        """See `Progress.retried`."""
        self._call("retried", task, attempt, error)

    def status(self, status: JobStatus) -> None:
        """See `Progress`."""
        self._call("status", status)

    def ended(self, task: TaskReport) -> None:
        """See `Progress.ended`."""
        self._call("ended", task)

    def finished(self, report: JobReport) -> None:
        """See `Progress.finished`."""
        self._call("finished", report)

    def _call(self, what: str, *facts: Any) -> None:
        if self._progress is None:
            return
        try:
            getattr(self._progress, what)(*facts)
        except Exception:  # noqa: BLE001 - a user's own may raise anything
            _log.exception("%r raised in %r; the run continues without it", self._progress, what)
            self._progress = None
