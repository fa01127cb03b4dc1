"""Parameters from files: the rows of a table (CSV), the lines of a list."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from encamp.errors import BadJob
from encamp.units import counted, size_text

if TYPE_CHECKING:
    from _csv import Reader

MOST_TEXT = 1 << 28
"""Maximum size in bytes of a list or table, so that an endless one cannot fill the memory."""
_DELIMITERS = ",;\t"
Row = dict[str, str]
"""Column → value."""


class Rows(list[Row]):
    """The rows of a table, each with all of its columns."""

    def __init__(self, rows: Iterator[Row] | Sequence[Row], columns: Sequence[str]) -> None:
        super().__init__(rows)
        self.columns = tuple(columns)


def read_text(path: Path) -> str:
    """The content of a text file without its byte order mark. Raises `BadJob`."""
    try:
        with path.open("rb") as file:
            return read_bounded(file, str(path)).decode("utf-8-sig")
    except BadJob:
        raise
    except UnicodeDecodeError:
        raise BadJob(str(path), "is not UTF-8; save the file as UTF-8 text") from None
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or str(exc)
        raise BadJob(str(path), f"cannot be read ({why}); check its name and folder") from None


def read_bounded(file: IO[bytes], name: str, most: int = MOST_TEXT) -> bytes:
    """The content of a file. Raises `BadJob` for more than ``most`` bytes, as devices have."""
    data = file.read(most + 1)
    if len(data) > most:
        raise BadJob(name, f"has more than {size_text(most)}; give a smaller file")
    return data


def lines_in(text: str, name: str) -> list[str]:
    """The lines that are not empty. Raises `BadJob` if there is none."""
    _check_text(text, name)
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if not lines:
        raise BadJob(name, "has no lines; write one value per line")
    return lines


def rows_in(text: str, name: str) -> Rows:
    """The rows of a table whose first line names the columns. Raises `BadJob`.

    The separator is the most frequent one of the first line: comma, semicolon or tab.
    """
    _check_text(text, name)
    first = text.partition("\n")[0]
    lines = io.StringIO(text, newline="")  # str.splitlines would also split at U+2028 and the like
    reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        _check_columns(columns, name)
        rows = Rows(_rows(reader, columns, name), columns)
    except csv.Error as exc:
        raise BadJob(f"{name}, line {reader.line_num}", f"is not a row of a table: {exc}") from None
    if not rows:
        raise BadJob(name, "has no rows below its header")
    return rows


def _check_text(text: str, name: str) -> None:
    if "\0" in text:
        raise BadJob(name, "contains null bytes, which are not allowed in values")


def _check_columns(columns: list[str], name: str) -> None:
    if not columns:
        raise BadJob(name, "has no columns; its first line names them: corner,temperature")
    for column in columns:
        if columns.count(column) > 1:
            raise BadJob(name, f"has two columns {column!r}; rename one of them")


def _rows(reader: Reader, columns: list[str], name: str) -> Iterator[Row]:
    for row in reader:
        if not row:
            continue
        if len(row) != len(columns):
            why = f"has {counted(len(row), 'value')} for {counted(len(columns), 'column')}"
            raise BadJob(f"{name}, line {reader.line_num}", why)
        yield dict(zip(columns, row, strict=True))
