"""A task's values from a file that its steps have written: JSON, a table of one row, or lines."""

from __future__ import annotations

import io
import json
import os
import re
import stat
from pathlib import Path

from encamp.errors import BadJob, BadValues
from encamp.jobs.numbers_in_files import scalar_in
from encamp.jobs.parameter_files import rows_in
from encamp.task_values import Scalar, row_of

_LARGEST = 1 << 16
_LINE = re.compile(r"([^\s=:]+)\s*[=:\s]\s*(.*)")
_COMMENT = ("#", "*", "%")
_MEASURED = re.compile(r"(\S+)(?:\s+(?:at|from|to|targ|trig)\s*=\s*\S+)+")
"""A value and where it was measured, as ngspice prints them: ``45.5 at= 1.0e+06``."""


def read_values(file: Path, task: str) -> dict[str, Scalar]:
    """The values in a file of at most 64 KiB, by name. Raises `BadValues`.

    ``.json`` is an object, or one value; ``.csv`` is a line of names and a line of values; any
    other file has lines of a name and a value, separated by a space, ``=`` or ``:``, and comments
    that begin with ``#``, ``*`` or ``%``.
    """
    text = _text(file, task)
    try:
        if file.suffix == ".json":
            return row_of(json.loads(text, object_pairs_hook=_once_each), task)
        pairs = _of_table(text, file.name) if file.suffix == ".csv" else _of_lines(text)
        return row_of({name: scalar_in(value) for name, value in pairs.items()}, task)
    except (ValueError, RecursionError) as exc:
        why = exc.why if isinstance(exc, BadJob | BadValues) else exc
        if isinstance(exc, BadJob):
            place = exc.what.removeprefix(file.name).removeprefix(", ")
            why = f"{place} {exc.why}".strip()
        raise BadValues(task, f"the file {file.name!r} cannot be read as values: {why}") from exc


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:60]!r} occurs twice")
        found[name] = value
    return found


def _of_table(text: str, name: str) -> dict[str, str]:
    rows = rows_in(text, name)
    if len(rows) != 1:
        raise ValueError(f"it has {len(rows)} rows instead of one")
    return rows[0]


def _of_lines(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, io.StringIO(text, newline=None)), start=1):
        if not line or line.startswith(_COMMENT):
            continue
        match, where = _LINE.fullmatch(line), f"line {number}, {line[:60]!r},"
        if match is None:
            raise ValueError(f"{where} is not a name with a value")
        name, value = match.groups()
        if _is_number(name):
            raise ValueError(f"{where} begins with a number, not with a name")
        if name in pairs:
            raise ValueError(f"{where} repeats the name {name!r}")
        pairs[name] = _measured(value)
    return pairs


def _measured(value: str) -> str:
    """The number alone, without the conditions that simulators print after it."""
    match = _MEASURED.fullmatch(value)
    return match[1] if match is not None and _is_number(match[1]) else value


def _is_number(text: str) -> bool:
    return isinstance(scalar_in(text), int | float)


def _text(file: Path, task: str) -> str:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            kind = "not a file" if not stat.S_ISREG(status.st_mode) else "larger than 64 KiB"
            raise BadValues(task, f"its file of values, {file.name!r}, is {kind}")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadValues(task, f"its file of values, {file.name!r}, is not UTF-8 text") from None
    except OSError as exc:
        made = ", ".join(sorted(os.listdir(file.parent))[:5]) if file.parent.is_dir() else ""
        why = f"its file of values, {file.name!r}, cannot be read ({exc.strerror})"
        raise BadValues(task, f"{why}; its folder contains {made or 'no files'}") from exc
