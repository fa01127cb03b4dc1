"""The report that stays: a run in which nothing had to run does not replace an earlier one.

People were told to open it, and it says what ran where. That such a run has been is noted beside
it, with how many tasks were up to date, for `encamp status`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from encamp.errors import BadJob
from encamp.jobs.report import read_report, write_report
from encamp.model import JobReport

_NOTE = "checked.json"


class Checked(msgspec.Struct, frozen=True):
    """A run in which nothing had to run, after the one that the report is of."""

    ended: float
    tasks: int


def keep_report(report: JobReport, folder: Path) -> None:
    """Write the report of a run; if nothing had to run, only what is new in it.

    Raises as `write_report`.
    """
    idle = not report.interrupted and report.count("up to date") == len(report.tasks)
    earlier = _earlier(folder) if idle else None
    if earlier is None:
        (folder / _NOTE).unlink(missing_ok=True)
        write_report(report, folder)
        return
    if earlier.warnings != report.warnings:
        write_report(replace(earlier, warnings=report.warnings), folder)
    note = msgspec.json.encode(Checked(report.ended, len(report.tasks)))
    partial = folder / f".{_NOTE}"
    partial.write_bytes(note)
    partial.replace(folder / _NOTE)


def _earlier(folder: Path) -> JobReport | None:
    if not (folder / "report.html").exists():
        return None
    with suppress(BadJob):
        return read_report(folder / "report.json")
    return None


def last_check(folder: Path) -> Checked | None:
    """The last run, if nothing had to run in it."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / _NOTE).read_bytes(), type=Checked)
    return None
