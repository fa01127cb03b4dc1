"""Keeps the report of the last run that did something.

People look up there what ran where. A later run in which all tasks were up to date is recorded
beside it, with the number of tasks, for `encamp status`.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from encamp.errors import NotOurs
from encamp.jobs.report.read_report import NAME, report_in
from encamp.jobs.report.status_file import NAME as STATUS
from encamp.jobs.report.status_file import left_by_a_killed_run
from encamp.jobs.report.write_report import written
from encamp.reports import JobReport
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder

_NOTE = "checked.json"
_MOST_NOTE = 1 << 12


class Checked(msgspec.Struct, frozen=True):
    """A run in which all tasks were up to date, after the reported run."""

    ended: float
    tasks: int


def keep_report(report: JobReport, files: TrustedFiles) -> None:
    """Write the report of a run; if all tasks were up to date, only what is new in it.

    Raises the errors of `written`, and of `report_in` for the earlier one.
    """
    idle = not report.interrupted and {"up to date"}.issuperset(report.states())
    idle = idle and not left_by_a_killed_run(files)
    earlier = _earlier(files) if idle else None
    if earlier is None:
        files.remove(_NOTE)
        written(report, files)
        files.remove(STATUS)
        return
    if earlier != _Earlier(report.warnings, report.orphans):
        updated = replace(report_in(files), warnings=report.warnings, orphans=report.orphans)
        written(updated, files)
    with files.replacing(_NOTE) as file:
        file.write(msgspec.json.encode(Checked(report.ended, len(report.tasks))))


class _Earlier(msgspec.Struct):
    """The parts of a report that are needed here; it may have a million tasks."""

    warnings: list[str] = []
    orphans: int = 0


def _earlier(files: TrustedFiles) -> _Earlier | None:
    """The warnings of the last report; None if no report can be read."""
    with (
        suppress(OSError, ValueError, RecursionError, NotOurs),
        os.fdopen(files.open(NAME), "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        files.status("report.html")
        return msgspec.json.decode(_end_of(text) or text, type=_Earlier)
    return None


_MOST_AT_END = 1 << 20
_WARNINGS = b'\n  "warnings": '
"""The beginning of the last part of a report: strings in JSON contain no line endings."""


def _end_of(text: mmap.mmap) -> bytes | None:
    """The last part of a report as a JSON object; None if it is not near the end."""
    start = text.rfind(_WARNINGS, max(0, len(text) - _MOST_AT_END))
    return None if start < 0 else b"{" + text[start:]


def last_check(folder: Path, *, shared: bool = False) -> Checked | None:
    """The last run, if all tasks were up to date in it."""
    with (
        suppress(OSError, ValueError, RecursionError, NotOurs),
        TrustedFolder(folder, shared).opened() as files,
    ):
        return msgspec.json.decode(files.read(_NOTE, _MOST_NOTE), type=Checked)
    return None
