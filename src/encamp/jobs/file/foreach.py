"""``foreach``: the files or values that a job file makes tasks for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from encamp.errors import BadJob, NoMatch, printable
from encamp.jobs.file.positions import Problem, at, items_of
from encamp.jobs.file.schema import Numbers, TaskTable, described
from encamp.jobs.numbers_in_files import scalar_in
from encamp.jobs.parameter_files import Rows, lines_in, read_text, rows_in
from encamp.jobs.task_names import name_of_values
from encamp.jobs.templates.placeholders import FILE_NAMES, file_values
from encamp.storage.inputs import mirror as storage
from encamp.task_values import Scalar

MOST_TASKS = 1_000_000
"""More tasks than this in one ``foreach`` are considered a mistake."""
RESERVED = ("task", "index", "to", "jobdir", *FILE_NAMES)


Values = Sequence[Scalar] | Rows
"""The values of one entry of a ``foreach`` table."""


@dataclass(frozen=True)
class Case:
    """One task of a ``foreach``: its values, its name in messages, its file."""

    values: dict[str, str]
    origin: str
    file: Path | None = None
    name: str = ""
    """The template of tasks' names, if none is given."""
    parameters: dict[str, Scalar] = field(default_factory=dict)
    """The entries of the table."""


def checked_path(folder: str) -> str:
    """``folder``, or a pattern, if it is a possible path; otherwise raises `BadJob`."""
    if "\0" in folder:
        raise BadJob(repr(folder), "contains a null byte, which no path can have")
    try:
        Path(folder).expanduser()
    except RuntimeError:
        raise BadJob(repr(folder), "names an unknown user after the '~'") from None
    return folder


def cases(task: TaskTable, base: Path, *path: str | int) -> Iterator[Case]:
    """The tasks of the table at ``path``; raises `Problem`."""
    if task.foreach is None:
        yield Case({"index": "1"}, f"[[task]] number {int(path[-1]) + 1}")
    elif isinstance(task.foreach, dict):
        combinations = _combinations(task.foreach, base, *path, "foreach")
        yield from combinations if task.name is not None else map(_with_name, combinations)
    else:
        files = _files(task.foreach, base, *path, "foreach")
        for file, values in each_file(files):
            parameters = parameters_of_file(file, base)
            yield Case(values, printable(file), file, "{stem}", parameters)


def each_file(files: Iterable[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Each file with the values of its task's placeholders, ``{index}`` counted from 1."""
    for number, file in enumerate(files, start=1):
        yield file, {"index": str(number), **file_values(file)}


def parameters_of_file(file: Path, base: Path) -> dict[str, Scalar]:
    """The parameters of a task that is made for a file."""
    return {"file": str(file.relative_to(base) if file.is_relative_to(base) else file)}


def _files(patterns: str | list[str], base: Path, *path: str | int) -> list[Path]:
    """The files of a ``foreach``, without duplicates."""
    if not patterns:
        raise Problem(path, 'the list produces no task; add a pattern such as "data/*.txt"')
    files: dict[Path, None] = {}
    for where, pattern in items_of(patterns, *path):
        with at(*where):
            files.update(dict.fromkeys(files_of(pattern, base)))
    return list(files)


def files_of(pattern: str | Path, base: Path) -> list[Path]:
    """The files of a pattern, or the one file of a path; ``**`` matches files only.

    Raises `NoMatch` if there is nothing, `BadJob` for an impossible path.
    """
    found = storage.find(checked_path(str(pattern)), base, literal=isinstance(pattern, Path))
    if not isinstance(pattern, Path) and "**" in pattern:
        found = [file for file in found if not file.is_dir()]
    if not found:
        raise NoMatch(str(pattern), str(base), required_anyway=True)
    return found


def _combinations(
    given: Mapping[str, Sequence[Scalar] | Numbers | str], base: Path, *path: str | int
) -> Iterator[Case]:
    """One case for each combination of values; the last one varies fastest."""
    values = {key: _values_of(key, one, base, *path, key) for key, one in given.items()}
    _check_distinct(values, *path)
    count = math.prod(_count(one) for one in values.values())
    if not values:
        raise Problem(path, "the table produces no task; add a list such as corner = ['tt', 'ff']")
    if count > MOST_TASKS:
        why = f"this makes {count:,} tasks, more than {MOST_TASKS:,}; check the numbers"
        raise Problem(path, why)
    parts = (_parts(key, one) for key, one in values.items())
    texts = {name for one in values.values() if isinstance(one, Rows) for name in one.columns}
    for index, combination in enumerate(product(*parts), start=1):
        parameters = {key: value for part in combination for key, value in part.items()}
        chosen = {key: _text(value) for key, value in parameters.items()}
        origin = ", ".join(f"{key} = {value!r}" for key, value in chosen.items())
        for key in texts.intersection(chosen):
            parameters[key] = scalar_in(chosen[key])
        yield Case({"index": str(index), **chosen}, origin, parameters=parameters)


def _with_name(case: Case) -> Case:
    values = [value for key, value in case.values.items() if key != "index"]
    return replace(case, name=name_of_values(values))


def _parts(key: str, values: Values) -> Iterator[Mapping[str, Scalar]]:
    """The placeholders of each value; a row has several at once."""
    if isinstance(values, Rows):
        return iter(values)
    return ({key: value} for value in values)


def _check_distinct(values: Mapping[str, Values], *path: str | int) -> None:
    found: dict[str, str] = {}
    for key, one in values.items():
        for name in one.columns if isinstance(one, Rows) else [key]:
            if name in found:
                raise Problem((*path, key), f"{{{name}}} occurs twice; rename one of them")
            found[name] = key


def _values_of(
    key: str, given: Sequence[Scalar] | Numbers | str | Rows, base: Path, *path: str | int
) -> Values:
    values = _in_file(key, given, base, *path) if isinstance(given, str) else given
    for name in values.columns if isinstance(values, Rows) else [key]:
        _check_placeholder(name, *path)
    return values if isinstance(values, Rows) else _listed(key, values, *path)


def _in_file(key: str, file: str, base: Path, *path: str | int) -> Rows:
    """The rows of a table; for a list of lines, one column."""
    if key not in ("csv", "lines"):
        raise Problem(path, f"{key!r} must be a list or a table, not {described(file)}")
    with at(*path):
        text = read_text(base / os.path.expanduser(checked_path(file)))
        if key == "csv":
            return rows_in(text, file)
        return Rows([{"line": line} for line in lines_in(text, file)], ["line"])


def _check_placeholder(key: str, *path: str | int) -> None:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
        raise Problem(path, f"{key!r} cannot be a placeholder; use letters, digits and '_'")
    if key in RESERVED:
        raise Problem(path, f"{{{key}}} has a different meaning; choose a name other than {key!r}")


def _listed(key: str, given: Sequence[Scalar] | Numbers, *path: str | int) -> Sequence[Scalar]:
    if isinstance(given, Numbers) and given.step == 0:
        raise Problem((*path, "step"), "a step of 0 never ends; give 1 or more, or -1 to go down")
    for number, value in enumerate(given if isinstance(given, list) else ()):
        if "\0" in str(value):
            raise Problem((*path, number), f"{value!r} contains a null byte; remove it")
    numbers = _range(given) if isinstance(given, Numbers) else given
    if not numbers:
        raise Problem(path, f"{{{key}}} has no values; give a list or range that is not empty")
    return numbers


def _range(numbers: Numbers) -> range:
    return range(numbers.from_, numbers.to + (1 if numbers.step > 0 else -1), numbers.step)


def _count(values: Values) -> int:
    """`len`, even for a range that is too long for `len`."""
    if isinstance(values, range):
        return (values[-1] - values[0]) // values.step + 1
    return len(values)


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
