"""The report of one run: report.json for programs, report.html for people, trace.json."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from encamp.errors import BadJob
from encamp.job_status import JobStatus, State
from encamp.jobs.report.json_encoding import facts_json, with_json_value
from encamp.jobs.report.page import page_of
from encamp.jobs.report.task_reports import Reports
from encamp.jobs.report.timeline import Lanes
from encamp.jobs.report.trace import trace
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.disk import not_written
from encamp.storage.disk.own_files import OwnFiles, OwnFolder

NAME = "report.json"


def write_report(report: JobReport, folder: Path, *, shared: bool = False) -> Path:
    """Write report.json, trace.json and report.html into ``folder``; return the page's path.

    Each file replaces an older one in one step. Odd names and values are escaped if JSON cannot
    represent them. Raises `NotOurs`, `DiskFull`, or OSError if the folder cannot be written.
    """
    if not isinstance(report.tasks, Reports):
        report = replace(report, tasks=[with_json_value(task) for task in report.tasks])
    with OwnFolder(folder, shared).opened(make=True) as files:
        written(report, files)
    return folder / "report.html"


def written(report: JobReport, files: OwnFiles) -> None:
    """The same of a run's report, in a folder that is open; values are as JSON has them."""
    folder = files.path
    _replace(files, NAME, _in_pieces(report))
    lanes = Lanes(report)
    _replace(files, "trace.json", trace(report, lanes))
    _replace(files, "report.html", [page_of(report, lanes, folder)])


def write_page(report: JobReport, folder: OwnFolder, status: JobStatus, pause: float) -> None:
    """Write only report.html, of a running job; raises the errors of `write_report`.

    ``pause`` is the expected number of seconds until the next one.
    """
    lanes = Lanes(report)
    with folder.opened() as files:
        page = page_of(report, lanes, files.path, live=status, pause=pause)
        _replace(files, "report.html", [page], flush=False)


def _in_pieces(report: JobReport) -> Iterator[bytes]:
    """The report as readable JSON; one task at a time, because there may be a million."""
    whole = facts_json(replace(report, tasks=[]))
    head, tasks, tail = msgspec.json.format(whole, indent=2).partition(b'"tasks": []')
    yield head + (tasks if not report.tasks else b'"tasks": [')
    kept = report.tasks
    texts = kept.as_json() if isinstance(kept, Reports) else map(facts_json, kept)
    for number, task in enumerate(texts):
        text = msgspec.json.format(task, indent=2).replace(b"\n", b"\n    ")
        yield (b",\n    " if number else b"\n    ") + text
    yield (b"\n  ]" if report.tasks else b"") + tail


class TaskOutline(msgspec.Struct, frozen=True, gc=False):
    """The facts of a task for `encamp status`."""

    name: str
    state: State
    why: str = ""
    log: str | None = None


class Outline(msgspec.Struct, frozen=True):
    """The facts of a report for `encamp status`; the report may be of a million tasks."""

    ended: float
    interrupted: bool
    tasks: list[TaskOutline]
    not_selected: int = 0
    orphans: int = 0
    started: float | None = None
    controller: str = ""


def read_outline(path: Path, *, shared: bool = False) -> Outline:
    """The outline of a report.json; raises the errors of `read_report`."""
    with (
        _told_as_bad_job(path),
        OwnFolder(path.parent, shared).opened() as files,
        os.fdopen(files.open(path.name), "rb") as file,
        _mapped(file) as text,
    ):
        return msgspec.json.decode(text, type=Outline)


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: str


class _RawTasks(msgspec.Struct, frozen=True):
    ended: float
    tasks: list[msgspec.Raw]


def read_task(path: Path, task: str, *, shared: bool = False) -> tuple[TaskReport | None, float]:
    """The report of one task in a report.json, and the end of its run; raises as `read_report`.

    None if the task is not in it. The reports of other tasks, perhaps a million, are not decoded.
    """
    name_of = msgspec.json.Decoder(_Named)
    with (
        _told_as_bad_job(path),
        OwnFolder(path.parent, shared).opened() as files,
        os.fdopen(files.open(path.name), "rb") as file,
    ):
        text = _mapped(file)  # closed after its parts
        parts = msgspec.json.decode(text, type=_RawTasks)
        own = next((one for one in parts.tasks if name_of.decode(one).name == task), None)
        found = None if own is None else msgspec.json.decode(own, type=TaskReport)
        return found, parts.ended


def _mapped(file: BinaryIO) -> mmap.mmap:
    """The text of a file; raises ValueError if there is none."""
    if os.fstat(file.fileno()).st_size == 0:
        raise ValueError("it is empty")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_report(path: Path, *, shared: bool = False) -> JobReport:
    """The report in ``path``, a report.json.

    Raises `BadJob` if it is missing or broken, `NotOurs` if another user may have written it.
    """
    with _told_as_bad_job(path), OwnFolder(path.parent, shared).opened() as files:
        return report_in(files, path.name)


def report_in(files: OwnFiles, name: str = NAME) -> JobReport:
    """The same, in a folder that is open."""
    with _told_as_bad_job(files.path / name):
        return msgspec.json.decode(files.read(name), type=JobReport)


@contextmanager
def _told_as_bad_job(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise BadJob(str(path), f"cannot be read: {exc.strerror or exc}") from exc
    except BadJob:
        raise
    except (ValueError, RecursionError) as exc:
        why = f"is not a report of a run: {exc}; run the job again to write a new one"
        raise BadJob(str(path), why) from exc


def _replace(files: OwnFiles, name: str, pieces: Iterable[bytes], *, flush: bool = True) -> None:
    size = 0
    try:
        with files.replacing(name, flush=flush) as file:
            for data in pieces:
                size += len(data)
                file.write(data)
    except OSError as exc:
        raise not_written(exc, files.path / name, size) from exc
