"""``encamp map``: one command line for many files, rows of a table, lines or values.

It makes the table that a job file would contain, so the placeholders and rules are the same.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import click

from encamp.cli.last_map_command import note_line, other_line, warning_of
from encamp.cli.run import options_of, running
from encamp.errors import BadJob, InputError, OutputConflict, printable
from encamp.jobs.file.foreach import MOST_TASKS
from encamp.jobs.file.jobfile import job_of
from encamp.jobs.file.positions import Problem, at
from encamp.jobs.file.schema import JobTable, MirrorItem, Numbers, OutputItem, StepTable, TaskTable
from encamp.jobs.job import Job
from encamp.jobs.map_files import job_name
from encamp.jobs.parameter_files import Rows, lines_in, read_bounded, read_text, rows_in
from encamp.jobs.steps import command as as_command
from encamp.jobs.templates.template import parse
from encamp.storage.inputs.mirror import other_matches
from encamp.storage.real_paths import current_folder

_STDIN = "-"
_NOTHING = (
    "name some, or - to read their names from standard input, or give values with --csv FILE, "
    "--lines FILE or --foreach NAME=VALUES"
)
_NO_OUTPUTS = (
    "the files that the command makes are removed with its folder; name those to publish with "
    "--outputs PATTERN, --stdout NAME or --values NAME, or use --no-outputs"
)
_ONE_NAME = (
    "would both be published under one name; use a placeholder in it, such as {stem}, or "
    "--into {task}"
)
_MOST_PATTERNS = 100
"""More arguments than this are file names from the shell or a program, not typed patterns."""
_OPTIONS = {
    "env": "--env",
    "foreach": "--foreach",
    "csv": "--csv",
    "line": "--lines",
    "mirror": "--mirror",
    "outputs": "--outputs",
    "stdin": "--stdin",
    "stdout": "--stdout",
    "values": "--values",
}
"""Key of a job file → the option of the command for it."""


@dataclass(frozen=True)
class Mapped:
    """The job as the command line describes it."""

    command: str
    files: tuple[str, ...]
    to: str
    outputs: tuple[str, ...]
    into: str
    no_outputs: bool
    stdin: str | None
    stdout: str | None
    values: str | None
    mirror: tuple[str, ...]
    env: tuple[str, ...]
    shell: bool | Literal["bash"]
    csv: str | None
    lines: str | None
    foreach: tuple[str, ...]
    null: bool
    name: str | None
    task: str | None


def map_command(mapped: Mapped, **options: Any) -> None:
    """Run a command line for many files or values; raises `JobFailed` if tasks failed."""
    run_options = options_of(for_script=False, **options)
    with running(run_options):
        job = map_job(mapped)
        before = other_line(job, mapped.command, shared=run_options.shared)
        if before is not None and mapped.name is None:
            click.echo(f"warning: {printable(warning_of(job, before))}", err=True)
        try:
            job.run()
        except OutputConflict as exc:
            clash = BadJob(exc.destination, f"{exc.first} and {exc.second} {_ONE_NAME}")
            raise clash from None
        finally:
            if not run_options.dry_run:
                note_line(job, mapped.command, shared=run_options.shared)


def map_job(mapped: Mapped) -> Job:
    """The job of a command line. Raises an `InputError`."""
    folder = current_folder()
    try:
        table = _job_table(mapped, folder)
        return job_of(table, folder / f"{table.name}.toml", mapped.to)
    except Problem as exc:
        raise _refusal(exc) from None


def _refusal(problem: Problem) -> InputError:
    """An error of the job, reworded for the command line."""
    cause = problem.__cause__
    if isinstance(cause, BadJob) and problem.path[-1] in ("foreach", "name"):
        option = "--task" if len(problem.path) > 1 else "--name"
        return BadJob(f"{cause.what} ({option})", cause.why)
    if isinstance(cause, InputError):
        return cause
    options = [
        _OPTIONS[part] for part in problem.path if isinstance(part, str) and part in _OPTIONS
    ]
    return BadJob(options[-1] if options else "encamp map", problem.why)


def _job_table(mapped: Mapped, folder: Path) -> JobTable:
    name = mapped.name or job_name(as_command(mapped.command, shell=mapped.shell))
    with at("mirror"):
        own = [bool(set(map(type, parse(pattern))) - {str}) for pattern in mapped.mirror]
    items = [MirrorItem(pattern=pattern) for pattern in mapped.mirror]
    return JobTable(
        name=name,
        mirror=[item for item, is_own in zip(items, own, strict=True) if not is_own],
        task=[
            TaskTable(
                name=mapped.task,
                foreach=cast(Any, _foreach(mapped, folder)),
                mirror=[item for item, is_own in zip(items, own, strict=True) if is_own],
                steps=[_step(mapped)],
                outputs=_outputs(mapped),
                values=mapped.values,
            )
        ],
    )


def _step(mapped: Mapped) -> StepTable:
    return StepTable(
        run=mapped.command,
        shell=mapped.shell,
        stdin=mapped.stdin,
        stdout=mapped.stdout,
        env=dict(_name_and_value("--env", given) for given in mapped.env),
    )


def _outputs(mapped: Mapped) -> list[str | OutputItem]:
    patterns = [*mapped.outputs, *([mapped.stdout] if mapped.stdout else [])]
    if not (patterns or mapped.values or mapped.no_outputs):
        raise BadJob("no outputs", _NO_OUTPUTS)
    return [OutputItem(pattern=pattern, to=mapped.into) for pattern in patterns]


def _name_and_value(option: str, given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise BadJob(f"{option} {given}", "write it as NAME=VALUE")
    return name, value


def _foreach(mapped: Mapped, folder: Path) -> list[str | Path] | dict[str, Any]:
    """The equivalent of a job file's ``foreach``."""
    if [*mapped.files, mapped.csv, mapped.lines].count(_STDIN) > 1:
        raise BadJob(_STDIN, "standard input can be read only once; name a file instead")
    values = _values(mapped, folder)
    if values and mapped.files:
        raise BadJob(mapped.files[0], "give files or values, not both; see --mirror for files")
    if not (values or mapped.files):
        raise BadJob("no files", _NOTHING)
    return values or _files(mapped, folder)


def _files(mapped: Mapped, folder: Path) -> list[str | Path]:
    found: list[str | Path] = []
    paths = {folder / name for name in mapped.files}
    for name in mapped.files:
        if name == _STDIN:
            found += _names(null=mapped.null)
        else:
            found.append(Path(name) if _is_path(name, folder, paths) else name)
    return found


def _is_path(name: str, folder: Path, paths: set[Path]) -> bool:
    """Whether a name means the file of that name, not a quoted pattern that matches others, too.

    For a pattern without quotes, ``paths`` has all matches, because the shell has listed them.
    """
    if not os.path.lexists(name):
        return False
    listed = len(paths) > _MOST_PATTERNS
    return listed or paths.issuperset(other_matches(name, folder / name, folder))


def _names(*, null: bool) -> Sequence[Path]:
    """The names on standard input: one per line or, from ``find -print0``, separated by nulls."""
    names = read_bounded(sys.stdin.buffer, "standard input").split(b"\0" if null else b"\n")
    found = [Path(os.fsdecode(name)) for name in names if name]
    if not found:
        raise BadJob("standard input", "has no file names; write one per line")
    return found


def _values(mapped: Mapped, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if mapped.csv is not None:
        values["csv"] = rows_in(*_text(mapped.csv, folder))
    if mapped.lines is not None:
        values["line"] = _texts("line", lines_in(*_text(mapped.lines, folder)))
    for given in mapped.foreach:
        name, listed = _name_and_value("--foreach", given)
        if name in values:
            raise BadJob(f"--foreach {given}", f"{{{name}}} occurs twice")
        try:
            values[name] = _listed(name, listed)
        except ValueError as exc:
            raise BadJob(f"--foreach {given}", str(exc)) from None
    return values


def _text(file: str, folder: Path) -> tuple[str, str]:
    """The content of a file or of standard input, and its name."""
    if file != _STDIN:
        return read_text(folder / file), file
    try:
        given = read_bounded(sys.stdin.buffer, "standard input")
        return given.decode("utf-8-sig"), "standard input"
    except UnicodeDecodeError:
        raise BadJob("standard input", "is not UTF-8 text") from None


def _texts(name: str, texts: Sequence[str]) -> Rows:
    """Values that may look like numbers, but go into the command as they are written."""
    return Rows([{name: text} for text in texts], [name])


def _listed(name: str, text: str) -> Rows | Numbers:
    """Values and ranges separated by commas. Raises ValueError with the reason."""
    if not text:
        raise ValueError(f"has no value; give some, such as {name}=tt,ff or {name}=1..70")
    parts = [_range_in(part) or part for part in text.split(",")]
    if len(parts) == 1 and isinstance(parts[0], Numbers):
        return parts[0]
    texts: list[str] = []
    for part in parts:
        texts += [part] if isinstance(part, str) else map(str, _numbers_of(part))
    return _texts(name, texts)


def _range_in(text: str) -> Numbers | None:
    """The numbers of ``FROM..TO`` or ``FROM..TO..STEP``; None for a string without ``..``.

    The ``..`` of a path, as in ``../amp.cir``, does not make a range.
    """
    if ".." not in text.replace("../", ""):
        return None
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a range; write integers as 1..70, or 1..70..2 in steps of 2; "
            "list other values with commas, or strings with '..' in a file for --lines"
        )
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    return Numbers(from_=first, to=last, step=step if first <= last else -step)


def _numbers_of(given: Numbers) -> range:
    """The numbers of a range. Raises ValueError if these are too many."""
    down = given.step < 0
    if abs(given.to - given.from_) // abs(given.step) >= MOST_TASKS:
        raise ValueError(f"makes more than {MOST_TASKS:,} tasks; check the numbers")
    return range(given.from_, given.to + (-1 if down else 1), given.step)


_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.([1-9][0-9]{0,17}))?")
