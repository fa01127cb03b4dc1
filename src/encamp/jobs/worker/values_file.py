"""A task's values from a file that its steps have written: JSON, a table of one row, or lines."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from encamp.errors import BadJob, BadValues
from encamp.jobs.rows import rows_in
from encamp.values import Scalar, row_of, scalar_in

_LARGEST = 1 << 16
_LINE = re.compile(r"\s*([^\s=:]+)\s*[=:\s]\s*(.*?)\s*")


def read_values(file: Path, task: str) -> dict[str, Scalar]:
    """The values that a file of at most 64 KiB has by name. Raises `BadValues`.

    ``.json`` is an object, or one value; ``.csv`` is a line of names and a line of values; any
    other file has lines of a name and its value, with a space, ``=`` or ``:`` between.
    """
    text = _text(file, task)
    try:
        if file.suffix == ".json":
            return row_of(json.loads(text), task)
        pairs = _of_table(text, file.name) if file.suffix == ".csv" else _of_lines(text)
    except (ValueError, RecursionError) as exc:
        why = exc.why if isinstance(exc, BadJob) else exc
        raise BadValues(task, f"the file {file.name!r} cannot be read as values: {why}") from exc
    return row_of({name: scalar_in(value) for name, value in pairs.items()}, task)


def _of_table(text: str, name: str) -> dict[str, str]:
    rows = rows_in(text, name)
    if len(rows) != 1:
        raise ValueError(f"it has {len(rows)} rows, and there must be one")
    return rows[0]


def _of_lines(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"the line {line[:60]!r} is no name with a value")
        pairs[match[1]] = match[2]
    return pairs


def _text(file: Path, task: str) -> str:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            kind = "no file" if not stat.S_ISREG(status.st_mode) else "larger than 64 KiB"
            raise BadValues(task, f"its file of values, {file.name!r}, is {kind}")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadValues(task, f"its file of values, {file.name!r}, is not UTF-8 text") from None
    except OSError as exc:
        made = ", ".join(sorted(os.listdir(file.parent))[:5]) if file.parent.is_dir() else ""
        why = f"its file of values, {file.name!r}, cannot be read ({exc.strerror})"
        raise BadValues(task, f"{why}; in its folder are {made or 'no files'}") from exc
