"""Writes the report of a run: report.json for programs, report.html for people, trace.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from encamp.job_status import JobStatus
from encamp.jobs.report.compressed_reports import CompressedReports
from encamp.jobs.report.json_encoding import facts_json, with_json_value
from encamp.jobs.report.page_facts import page_of
from encamp.jobs.report.read_report import NAME
from encamp.jobs.report.timeline import Lanes
from encamp.jobs.report.trace import trace
from encamp.reports import JobReport
from encamp.storage.disk.disk_full import not_written
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder


def write_report(report: JobReport, folder: Path, *, shared: bool = False) -> Path:
    """Write report.json, trace.json and report.html into ``folder``; return the page's path.

    Each file replaces an older one in one step. Odd names and values are escaped if JSON cannot
    represent them. Raises `NotOurs`, `DiskFull`, or OSError if the folder cannot be written.
    """
    if not isinstance(report.tasks, CompressedReports):
        report = replace(report, tasks=[with_json_value(task) for task in report.tasks])
    with TrustedFolder(folder, shared).opened(make=True) as files:
        written(report, files)
    return folder / "report.html"


def written(report: JobReport, files: TrustedFiles) -> None:
    """The same of a run's report, in a folder that is open; values are as JSON has them."""
    folder = files.path
    _replace(files, NAME, _in_pieces(report))
    lanes = Lanes(report)
    _replace(files, "trace.json", trace(report, lanes))
    _replace(files, "report.html", [page_of(report, lanes, folder)])


def write_page(report: JobReport, folder: TrustedFolder, status: JobStatus, pause: float) -> None:
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
    texts = kept.as_json() if isinstance(kept, CompressedReports) else map(facts_json, kept)
    for number, task in enumerate(texts):
        text = msgspec.json.format(task, indent=2).replace(b"\n", b"\n    ")
        yield (b",\n    " if number else b"\n    ") + text
    yield (b"\n  ]" if report.tasks else b"") + tail


def _replace(
    files: TrustedFiles, name: str, pieces: Iterable[bytes], *, flush: bool = True
) -> None:
    size = 0
    try:
        with files.replacing(name, flush=flush) as file:
            for data in pieces:
                size += len(data)
                file.write(data)
    except OSError as exc:
        raise not_written(exc, files.path / name, size) from exc
