"""``results.csv`` in the job's folder: a row for each task that has values."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from encamp.errors import BadValues
from encamp.model import TaskReport
from encamp.storage.disk.disk import disk_full
from encamp.storage.disk.own_files import OwnFolder
from encamp.values import Scalar

NAME = "results.csv"
Row = dict[str, Scalar]


def write_table(reports: Callable[[], Iterable[TaskReport]], folder: OwnFolder) -> None:
    """Write the rows of tasks; they are gone through twice, since there may be a million."""
    columns = list(dict.fromkeys(name for row in _rows(reports()) for name in row))
    with folder.opened(make=True) as files:
        if not columns:
            files.remove(NAME)
            return
        try:
            with files.replacing(NAME) as file:
                file.writelines(_lines(columns, _rows(reports())))
        except OSError as exc:
            raise (disk_full(exc, files.path / NAME, 0) or exc) from exc


def _rows(reports: Iterable[TaskReport]) -> Iterator[Row]:
    """What can be a row: what a task may return besides is told of by `JobReport.values`."""
    for report in reports:
        with suppress(BadValues):
            if row := report.row():
                yield row


def _lines(columns: list[str], rows: Iterable[Row]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        yield text.getvalue().encode("utf-8", "backslashreplace")
        text.seek(0)
        text.truncate()
