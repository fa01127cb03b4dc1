"""``foreach``: the files or values that a table of a job file makes a task for, one each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from encamp.errors import BadJob, NoMatch, printable
from encamp.jobs.jobschema import Numbers, Scalar, TaskTable
from encamp.jobs.placeholders import FILE_NAMES, expand_files
from encamp.jobs.positions import Problem, at, items_of
from encamp.storage import mirror as storage

MOST_TASKS = 1_000_000
"""More tasks than this in one ``foreach`` are taken for a slip of the pen."""
RESERVED = ("task", "index", "to", "jobdir", *FILE_NAMES)


@dataclass(frozen=True)
class Case:
    """One task of a ``foreach``: its values, what to call it in a message, its own file."""

    values: dict[str, str]
    origin: str
    file: Path | None = None


def checked_path(folder: str) -> str:
    """``folder``, or a pattern, if a path can be made of it; else `BadJob`."""
    if "\0" in folder:
        raise BadJob(repr(folder), "holds a null character, which no path can have")
    try:
        Path(folder).expanduser()
    except RuntimeError:
        raise BadJob(repr(folder), "names an unknown user after the '~'") from None
    return folder


def cases(task: TaskTable, base: Path, *path: str | int) -> Iterator[Case]:
    """The tasks that the table at ``path`` stands for; raises `Problem`."""
    if task.foreach is None:
        yield Case({"index": "1"}, f"[[task]] number {int(path[-1]) + 1}")
    elif isinstance(task.foreach, dict):
        yield from _combinations(task.foreach, *path, "foreach")
    else:
        files = _files(task.foreach, base, *path, "foreach")
        for file, values in zip(files, expand_files(files), strict=True):
            yield Case(values, printable(file), file)


def _files(patterns: str | list[str], base: Path, *path: str | int) -> list[Path]:
    """The files of a ``foreach``, each once; ``**`` stands for files only, as in a mirror."""
    if not patterns:
        raise Problem(path, 'the list makes no task; add a pattern such as "data/*.txt"')
    files: dict[Path, None] = {}
    for where, pattern in items_of(patterns, *path):
        with at(*where):
            checked_path(pattern)
            found = storage.find(pattern, base)
            if "**" in pattern:
                found = [file for file in found if not file.is_dir()]
            if not found:
                raise NoMatch(pattern, str(base), required_anyway=True)
            files.update(dict.fromkeys(found))
    return list(files)


def _combinations(lists: Mapping[str, list[Scalar] | Numbers], *path: str | int) -> Iterator[Case]:
    """One case for each combination of values, the last list's value changing first."""
    values = {key: _values_of(key, given, *path, key) for key, given in lists.items()}
    count = math.prod(_count(given) for given in values.values())
    if not values:
        raise Problem(path, "the table makes no task; add a list such as corner = ['tt', 'ff']")
    if count > MOST_TASKS:
        why = f"this makes {count:,} tasks, more than {MOST_TASKS:,}; check the numbers"
        raise Problem(path, why)
    for index, combination in enumerate(product(*values.values()), start=1):
        chosen = {key: _text(value) for key, value in zip(values, combination, strict=True)}
        origin = ", ".join(f"{key} = {value!r}" for key, value in chosen.items())
        yield Case({"index": str(index), **chosen}, origin)


def _values_of(key: str, given: list[Scalar] | Numbers, *path: str | int) -> list[Scalar] | range:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
        raise Problem(path, f"{key!r} cannot be a placeholder; use letters, digits and '_'")
    if key in RESERVED:
        raise Problem(path, f"{{{key}}} has a meaning of its own; choose another word than {key!r}")
    if isinstance(given, Numbers) and given.step == 0:
        raise Problem((*path, "step"), "a step of 0 never ends; give 1 or more, or -1 to go down")
    for number, value in enumerate(given if isinstance(given, list) else ()):
        if "\0" in str(value):
            raise Problem((*path, number), f"{value!r} holds a null character; leave it away")
    numbers = _range(given) if isinstance(given, Numbers) else given
    if not numbers:
        raise Problem(
            path, f"there is no value for {{{key}}}; give a list or numbers that hold one"
        )
    return numbers


def _range(numbers: Numbers) -> range:
    return range(numbers.from_, numbers.to + (1 if numbers.step > 0 else -1), numbers.step)


def _count(values: list[Scalar] | range) -> int:
    """`len`, also of a range that is longer than `len` can tell."""
    if isinstance(values, list):
        return len(values)
    return (values[-1] - values[0]) // values.step + 1


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
