"""Reads report.json, the report of a run: all of it, one task, or what `encamp status` shows."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from encamp.errors import BadJob
from encamp.job_status import State
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder

NAME = "report.json"


class TaskOutline(msgspec.Struct, frozen=True, gc=False):
    """The facts of a task for `encamp status`."""

    name: str
    state: State
    why: str = ""
    log: str | None = None


class Outline(msgspec.Struct, frozen=True):
    """The facts of a report for `encamp status`; the report may have a million tasks."""

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
        _raises_bad_job(path),
        TrustedFolder(path.parent, shared).opened() as files,
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
        _raises_bad_job(path),
        TrustedFolder(path.parent, shared).opened() as files,
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
    with _raises_bad_job(path), TrustedFolder(path.parent, shared).opened() as files:
        return report_in(files, path.name)


def report_in(files: TrustedFiles, name: str = NAME) -> JobReport:
    """The same, in a folder that is open."""
    with _raises_bad_job(files.path / name):
        return msgspec.json.decode(files.read(name), type=JobReport)


@contextmanager
def _raises_bad_job(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise BadJob(str(path), f"cannot be read: {exc.strerror or exc}") from exc
    except BadJob:
        raise
    except (ValueError, RecursionError) as exc:
        why = f"is not a report of a run: {exc}; run the job again to write a new one"
        raise BadJob(str(path), why) from exc
