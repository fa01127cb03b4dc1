"""``results.csv`` in the job's folder: a row for each task that has values."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import IO

import msgspec

from encamp.errors import BadValues, NotOurs
from encamp.jobs.parameter_columns import parameters_but_values
from encamp.jobs.steps import Task
from encamp.reports import TaskReport
from encamp.storage.disk.disk_full import not_written
from encamp.storage.disk.trusted_files import TrustedFiles
from encamp.task_values import Scalar
from encamp.version import __version__

NAME = "results.csv"
_NOTE = "table.json"
_MOST_NOTE = 1 << 12
Row = dict[str, Scalar]


class Written(msgspec.Struct, frozen=True):
    """The digest of the table's sources, and the state of the complete file."""

    made_of: str
    size: int
    mtime_ns: int


def facts_of(tasks: Mapping[str, Task], done: bytes) -> str:
    """A digest of everything that the rows are made from.

    These are the tasks with their present parameters, and ``done``, which stands for the journal's
    records of finished tasks.
    """
    digest = blake2b(done + __version__.encode(), digest_size=16)
    for name, task in tasks.items():
        digest.update(repr((name, parameters_but_values(task))).encode())
    return digest.hexdigest()


def write_table(
    reports: Callable[[], Iterable[TaskReport]], files: TrustedFiles, made_of: str | None = None
) -> None:
    """Write the rows of tasks; there may be a million, so none is kept in memory.

    ``made_of`` is the digest of their facts, see `facts_of`: an existing table with the same digest
    stays. None: unknown.
    """
    if made_of is not None and _is_there(files, made_of):
        return
    files.remove(_NOTE)
    first = next(_rows(reports()), None)
    if first is None:
        files.remove(NAME)
        return
    try:
        with files.replacing(NAME) as file:
            _write(file, list(first), reports)
        if made_of is not None:
            _note(files, made_of)
    except OSError as exc:
        raise not_written(exc, files.path / NAME, 0) from exc


def _is_there(files: TrustedFiles, made_of: str) -> bool:
    """Whether the table was made from these facts, and is unchanged."""
    with suppress(OSError, ValueError, NotOurs):
        noted = msgspec.json.decode(files.read(_NOTE, _MOST_NOTE), type=Written)
        return noted == _written(files, made_of)
    return False


def _note(files: TrustedFiles, made_of: str) -> None:
    with files.replacing(_NOTE) as file:
        file.write(msgspec.json.encode(_written(files, made_of)))


def _written(files: TrustedFiles, made_of: str) -> Written:
    status = files.status(NAME)
    return Written(made_of, status.st_size, status.st_mtime_ns)


def _rows(reports: Iterable[TaskReport]) -> Iterator[Row]:
    """The values that can be a row; `JobReport.values` reports the others."""
    for report in reports:
        with suppress(BadValues):
            if row := report.row():
                yield row


class _MoreColumns(Exception):
    """Raised for a row with unknown columns."""


def _write(
    file: IO[bytes], columns: list[str], reports: Callable[[], Iterable[TaskReport]]
) -> None:
    """Write all rows; again if there are more ``columns`` than those of the first row."""
    try:
        file.writelines(_lines(columns, _rows(reports())))
    except _MoreColumns:
        file.seek(0)
        file.truncate()
        columns = list(dict.fromkeys(name for row in _rows(reports()) for name in row))
        file.writelines(_lines(columns, _rows(reports())))


def _lines(columns: list[str], rows: Iterable[Row]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    known = frozenset(columns)
    for row in rows:
        if not row.keys() <= known:
            raise _MoreColumns
        writer.writerow([row.get(name, "") for name in columns])
        yield text.getvalue().encode("utf-8", "backslashreplace")
        text.seek(0)
        text.truncate()
