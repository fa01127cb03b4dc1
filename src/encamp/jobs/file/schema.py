"""The schema of a job file: its tables as types, and error messages for violations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct, field

from encamp.jobs.file.positions import KeyPath, Problem
from encamp.storage.inputs.mirror import Mode
from encamp.storage.outputs.patterns import Existing

Scalar = str | int | float | bool
TimeLimit = Annotated[
    int | float | str,
    Meta(description="Seconds, or a string like '500 ms', '30 s', '5 min', '2 h'."),
]
Retries = Annotated[int, Meta(ge=0, description="Number of retries after a failure.")]
Env = Annotated[dict[str, str], Meta(description="Added to the environment of commands.")]


class _Table(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables: an unknown key is an error."""


class MirrorTo(_Table, kw_only=True):
    """How the files of one pattern are mirrored."""

    to: Annotated[str, Meta(description="Folder inside the task's folder.")] = "."
    rename: str | None = None
    exclude: list[str] | str = []
    required: bool = True
    readonly: Annotated[
        bool, Meta(description="Promises that the task does not write to these files.")
    ] = False
    mode: Annotated[Mode, Meta(description="How these files get into the task's folder.")] = "auto"
    executable: Annotated[
        bool,
        Meta(
            description=(
                "Let everybody who can read these files execute them, for files from a URL."
            )
        ),
    ] = False
    outputs_of: Annotated[
        str | list[str] | None,
        Meta(description="Tasks that make these files; globs work. The task runs after them."),
    ] = None


class MirrorItem(MirrorTo, kw_only=True):
    """One pattern of a mirror list."""

    pattern: Annotated[
        str | None,
        Meta(description="Path or glob, from the job file's folder; with outputs_of, which ones."),
    ] = None


class OutputTo(_Table, kw_only=True):
    """How the files of one pattern are published."""

    to: Annotated[str, Meta(description="Folder inside the destination, or anywhere.")] = "."
    rename: str | None = None
    required: bool = True
    existing: Annotated[
        Existing, Meta(description="What to do about a file that exists already.")
    ] = "replace"


class OutputItem(OutputTo, kw_only=True):
    """One pattern of an output list."""

    pattern: Annotated[str, Meta(description="Path or glob inside the task's folder.")]


class Numbers(_Table, kw_only=True):
    """Integers from one to another, inclusive."""

    from_: int = field(name="from")
    to: int
    step: int = 1


class StepTable(_Table, kw_only=True):
    """A command line with options."""

    run: Annotated[str | list[str], Meta(description="Command line, or list of its words.")]
    shell: Annotated[
        bool | Literal["bash"],
        Meta(description="Run by /bin/sh, or by bash with pipefail, for pipes and the like."),
    ] = False
    time_limit: TimeLimit | None = None
    env: Env = {}
    stdin: str | None = None
    stdout: str | None = None


Mirrors = str | list[str | MirrorItem] | dict[str, str | MirrorTo]
Outputs = str | list[str | OutputItem] | dict[str, str | OutputTo]
Steps = str | list[str | list[str] | StepTable]
Foreach = str | list[str] | dict[str, list[Scalar] | Numbers | str]


class TaskTable(_Table, kw_only=True):
    """One task, or one for each file or value of ``foreach``."""

    name: Annotated[str | None, Meta(description="With placeholders such as {stem}.")] = None
    foreach: Annotated[
        Foreach | None,
        Meta(description="Globs of files, or lists, 'csv' and 'lines' of values to combine."),
    ] = None
    mirror: Annotated[Mirrors, Meta(description="Files for the task's folder.")] = {}
    steps: Annotated[Steps, Meta(description="Command lines, run one after the other.")]
    outputs: Annotated[Outputs, Meta(description="Files to publish, and where to.")] = {}
    on_failure: Annotated[
        Outputs, Meta(description="Files to publish, if they exist, when the task fails.")
    ] = {}
    env: Env = {}
    values: Annotated[
        str | None,
        Meta(description="File with the task's values, for the job's table: .json, .csv or lines."),
    ] = None
    after: Annotated[
        str | list[str], Meta(description="Tasks that must be done first; globs work.")
    ] = []
    retries: Retries | None = None
    time_limit: TimeLimit | None = None


class JobTable(_Table, kw_only=True):
    """A whole job file."""

    name: Annotated[str | None, Meta(description="Default: the file's name.")] = None
    to: Annotated[str, Meta(description="Destination folder.")] = "results"
    mirror: Annotated[Mirrors, Meta(description="Files for every task's folder.")] = {}
    retries: Retries = 0
    time_limit: TimeLimit | None = None
    log_limit: Annotated[
        int | str | None, Meta(description="How much of a log to keep: '20 MiB', or bytes.")
    ] = None
    shared: Annotated[
        bool, Meta(description="Let all members of the job folder's group run the job.")
    ] = False
    env: Env = {}
    task: list[TaskTable] = []


def job_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, for editors that check and complete TOML."""
    schema = msgspec.json.schema(JobTable)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "encamp job file",
        **schema,
    }


def checked(document: dict[str, Any]) -> JobTable:
    """A parsed TOML file as `JobTable`; raises `Problem` for the first error."""
    try:
        return msgspec.convert(document, JobTable)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc), document) from exc


def _explained(message: str, document: dict[str, Any]) -> Problem:
    what, path = _split(message, document)
    if match := re.fullmatch("Object contains unknown field `(.*)`", what, re.DOTALL):
        return Problem((*path, match[1]), _unknown_key(match[1], path), key=True)
    if match := re.fullmatch("Object missing required field `(.*)`", what):
        return missing(match[1], path)
    if path and path[-1] in _CHOICES:
        return Problem(path, _wrong_choice(str(path[-1]), _at(document, path)))
    if match := re.fullmatch("Expected `([^`]+)`( >= 0)?.*", what):
        return Problem(path, _wrong_type(match[1], match[2], path, _at(document, path)))
    return Problem(path, what)


def missing(key: str, path: KeyPath) -> Problem:
    """The error for a table that lacks a key."""
    return Problem(path, f"the key {key!r} is missing here; add {_MISSING[key]}")


def _split(message: str, document: dict[str, Any]) -> tuple[str, KeyPath]:
    """msgspec's message and path; it writes ``[...]`` for any key of a free table."""
    what, _, place = message.partition(" - at `$")
    path: KeyPath = ()
    for index, dots, key in re.findall(r"\[(?:(\d+)|(\.\.\.))\]|\.(\w+)", place):
        if dots:
            path = (*path, _faulty_key(message, document, path))
        else:
            path = (*path, int(index) if index else key)
    return what, path


def _faulty_key(message: str, document: dict[str, Any], path: KeyPath) -> str:
    """The key of the table at ``path`` that alone causes the same message."""
    for key, value in _at(document, path).items():
        copy = deepcopy(document)
        table = _at(copy, path)
        table.clear()
        table[key] = value
        try:
            msgspec.convert(copy, JobTable)
        except msgspec.ValidationError as exc:
            if str(exc) == message:
                return str(key)
    raise AssertionError(message)


def _at(document: Any, path: KeyPath) -> Any:
    for part in path:
        document = document[part]
    return document


def _unknown_key(key: str, path: KeyPath) -> str:
    known = _keys(_table_of(path))
    close = get_close_matches(key, known, 1)
    elsewhere = [where for where, table in _TABLES.items() if key in _keys(table)]
    guess = f"did you mean {close[0]!r}? " if close else ""
    if elsewhere:
        guess = f"it is a key of {' and '.join(elsewhere)}; "
    return f"unknown key {key!r}; {guess}the keys here are {', '.join(known)}"


def _keys(table: type[Struct]) -> list[str]:
    return [item.encode_name for item in msgspec.structs.fields(table)]


_TABLES: dict[str, type[Struct]] = {
    "the job, above all tasks": JobTable,
    "a [[task]]": TaskTable,
    "an entry of mirror, as in mirror = [{ … }]": MirrorItem,
    "an entry of outputs, as in outputs = [{ … }]": OutputItem,
    "a step, as in steps = [{ … }]": StepTable,
}


def _table_of(path: KeyPath) -> type[Struct]:
    inner = path[2:] if path[:1] == ("task",) else path
    if not inner:
        return TaskTable if path else JobTable
    in_list = isinstance(inner[-1], int)
    kinds: dict[str | int, type[Struct]] = {
        "mirror": MirrorItem if in_list else MirrorTo,
        "outputs": OutputItem if in_list else OutputTo,
        "on_failure": OutputItem if in_list else OutputTo,
        "foreach": Numbers,
        "steps": StepTable,
    }
    return kinds[inner[0]]


_EXAMPLES = {
    "steps": 'steps = ["prog {input}"]',
    "foreach": 'foreach = "data/*.txt" or foreach = { run = { from = 1, to = 70 } }',
    "mirror": 'mirror = { "amp.cir" = "." }',
    "outputs": 'outputs = { "*.raw" = "raw" }',
    "on_failure": 'on_failure = { "*.log" = "failed" }',
    "env": 'env = { OMP_NUM_THREADS = "1" }',
    "after": 'after = ["mc-*"]',
    "time_limit": 'time_limit = "30 s"',
    "log_limit": 'log_limit = "20 MiB"',
    "exclude": 'exclude = ["*.bak"]',
    "outputs_of": 'outputs_of = "mc-*"',
}
_MISSING = {
    "steps": _EXAMPLES["steps"],
    "pattern": 'pattern = "data/*.txt"',
    "run": 'run = "prog {input}"',
    "from": "from = 1",
    "to": "to = 10",
}


_CHOICES: dict[str | int, tuple[str, ...]] = {
    "mode": get_args(Mode),
    "existing": get_args(Existing),
    "shell": ("bash",),
}


def _wrong_choice(key: str, value: Any) -> str:
    if key == "shell":
        hint = _hint("bool", (key,), value)
        return f"'shell' must be true, false or 'bash', not {described(value)}{hint}"
    close = get_close_matches(str(value), _CHOICES[key], 1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    choices = ", ".join(map(repr, _CHOICES[key]))
    return f"{key!r} must be one of {choices}, not {described(value)}{guess}"


_WANTED = {
    "str": "a string in quotes",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


def _wrong_type(types: str, zero: str | None, path: KeyPath, value: Any) -> str:
    wanted = " or ".join(_wanted(types.split(" | "))) + (" of 0 or more" if zero else "")
    return f"{_label(path)} must be {wanted}, not {described(value)}{_hint(types, path, value)}"


def _wanted(types: list[str]) -> Iterator[str]:
    order = [name for name in _WANTED if name in types]
    for name in order:
        if not (name == "int" and "float" in order):
            yield _WANTED[name]


def _label(path: KeyPath) -> str:
    if not isinstance(path[-1], int):
        return repr(path[-1])
    number = path[-1] + 1
    return f"item {number} of {_label(path[:-1])}"


def _hint(types: str, path: KeyPath, value: Any) -> str:
    if path == ("task",):
        return "; write [[task]] with two brackets, once for each task"
    if types == "str" and isinstance(value, int | float) and not isinstance(value, bool):
        return f'; put it in quotes: "{value}"'
    if isinstance(value, str) and re.fullmatch("-?[0-9]+|true|false", value):
        return f"; leave out the quotes: {value}"
    return f"; for example {_EXAMPLES[path[-1]]}" if path[-1] in _EXAMPLES else ""


def described(value: Any) -> str:
    """A TOML value in a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {value if len(value) <= 40 else value[:37] + '...'!r}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return f"the time {value}"
