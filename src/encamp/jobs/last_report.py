"""The report that stays: a run in which nothing had to run does not replace an earlier one.

People were told to open it, and it says what ran where. That such a run has been is noted beside
it, with how many tasks were up to date, for `encamp status`.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

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
    if earlier != report.warnings:
        whole = read_report(folder / "report.json")
        write_report(replace(whole, warnings=report.warnings), folder)
    note = msgspec.json.encode(Checked(report.ended, len(report.tasks)))
    partial = folder / f".{_NOTE}"
    partial.write_bytes(note)
    partial.replace(folder / _NOTE)


class _Earlier(msgspec.Struct):
    """What has to be known of a report that may be of a million tasks."""

    warnings: list[str] = []


def _earlier(folder: Path) -> list[str] | None:
    """The warnings of the last report; None if there is none that can be read."""
    if not (folder / "report.html").exists():
        return None
    with (
        suppress(OSError, ValueError, RecursionError),
        (folder / "report.json").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        return msgspec.json.decode(text, type=_Earlier).warnings
    return None


def last_check(folder: Path) -> Checked | None:
    """The last run, if nothing had to run in it."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / _NOTE).read_bytes(), type=Checked)
    return None
