"""Job files: a `Job` of command lines, written as TOML (docs/jobfile.md)."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from encamp.errors import BadJob, BadJobFile
from encamp.jobs.file.foreach import Case, cases, checked_path
from encamp.jobs.file.positions import KeyPath, Positions, Problem, at, items_of, line_and_column
from encamp.jobs.file.schema import (
    JobTable,
    MirrorItem,
    Mirrors,
    MirrorTo,
    OutputItem,
    Outputs,
    OutputTo,
    StepTable,
    TaskTable,
    checked,
    described,
    job_schema,
    missing,
)
from encamp.jobs.job import Job
from encamp.jobs.job_definition import checked_log_limit
from encamp.jobs.outputs_of import OutputsOf
from encamp.jobs.parameter_files import read_bounded
from encamp.jobs.plan.selection import no_task_named
from encamp.jobs.steps import Command, check_variables, command
from encamp.jobs.templates.placeholders import Values, fill, fill_command, fill_pattern, fill_rename
from encamp.storage.inputs.mirror import Mirror, safe_target
from encamp.storage.outputs.patterns import Output
from encamp.storage.real_paths import current_folder
from encamp.units import TIMES, seconds_in

__all__ = ["job_schema", "load_job"]


def load_job(path: Path, *, to: str | None = None) -> Job:
    """The job of a file; its patterns and folders start from the file's folder.

    ``to`` is a destination instead of the file's own, relative to the current folder.
    Looks up ``foreach`` files at once, everything else when the job runs. Raises `BadJobFile`
    with line and column for any error.
    """
    text = _read(path)
    try:
        return job_of(checked(_parsed(path, text)), path, to)
    except Problem as exc:
        place = Positions(text).of(exc.path, key=exc.key, token=exc.token)
        raise BadJobFile(str(path), *place, exc.why) from exc


def job_of(table: JobTable, path: Path, to: str | None = None) -> Job:
    """The job of a table that is, or could be, in the file ``path``. Raises `Problem`."""
    return _Loader(path.absolute(), table, to).job


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = read_bounded(file, str(path), _MOST).removeprefix(b"\xef\xbb\xbf")
    except BadJob as exc:
        raise BadJobFile(str(path), 0, 0, exc.why) from exc
    except (OSError, ValueError) as exc:
        raise BadJobFile(str(path), 0, 0, _unreadable(exc)) from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode()
        place = line_and_column(before, len(before))
        why = f"the byte 0x{data[exc.start]:02x} is not UTF-8; save the file as UTF-8 text"
        raise BadJobFile(str(path), *place, why) from exc


def _unreadable(exc: Exception) -> str:
    if isinstance(exc, FileNotFoundError):
        return "there is no such file; check its name and folder"
    if isinstance(exc, IsADirectoryError):
        return "this is a folder; give the job file in it"
    return f"it cannot be read ({getattr(exc, 'strerror', None) or exc}); check its permissions"


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise BadJobFile(str(path), 0, 0, "it is nested too deeply; flatten its lists") from exc
    except ValueError as exc:
        why = re.sub(r" \(at (line .*|end of document)\)$", "", str(exc))
        found = re.search(r"\(at line (\d+), column (\d+)\)$", str(exc))
        place = (int(found[1]), int(found[2])) if found else _end_of(text)
        hint = 'check the quotes and brackets here; a key is written as key = "text"'
        raise BadJobFile(str(path), *place, f"this is not TOML: {why}; {hint}") from exc


def _end_of(text: str) -> tuple[int, int]:
    return line_and_column(text, len(text.rstrip()))


_MOST = 1 << 26
"""Maximum size of a job file in bytes."""


class _Loader:
    """Creates a job from a table; `job` is it."""

    def __init__(self, path: Path, table: JobTable, to: str | None) -> None:
        self.table = table
        self.job = self._empty_job(path)
        if to is not None:
            self.job.goes_to(to, current_folder())
        self.values = {"to": str(self.job.to), "jobdir": str(self.job.base)}
        self.job.mirror = tuple(self._job_inputs())
        self.origins: dict[str, str] = {}
        self.awaited: dict[str, KeyPath] = {}
        if not table.task:
            raise Problem((), 'the job has no task; add [[task]] and steps = ["prog ..."]')
        for number, task in enumerate(table.task):
            self._add_tasks(task, "task", number)
        self._check_awaited()

    def _job_inputs(self) -> Iterator[Mirror]:
        for where, given in _inputs(self.table.mirror, self.values, "mirror"):
            if isinstance(given, OutputsOf):
                why = (
                    "is for the mirror of a [[task]], since job inputs must exist before any "
                    "task runs"
                )
                raise Problem(where, f"outputs_of {why}")
            yield given

    def _empty_job(self, path: Path) -> Job:
        table = self.table
        name = path.stem if table.name is None else table.name
        limit = _seconds(table.time_limit, "time_limit")
        with at("to"):
            to = checked_path(fill(table.to, {"jobdir": str(path.parent)}))
        with at("log_limit"):
            log_limit = checked_log_limit("log_limit", table.log_limit)
        with at("name"):
            return Job(
                name,
                to=to,
                retries=table.retries,
                time_limit=limit,
                log_limit=log_limit,
                base=path.parent,
                shared=table.shared,
            )

    def _add_tasks(self, task: TaskTable, *path: str | int) -> None:
        limit = _seconds(task.time_limit, *path, "time_limit")
        steps = list(_commands(task.steps, *path, "steps"))
        for case in cases(task, self.job.base, *path):
            values = self._named(task, case, *path)
            env = self._env(task, values, *path)
            own = [] if case.file is None else [Mirror(str(case.file), literal=True)]
            commands = [_filled_step(step, values, env, *where) for where, step in steps]
            mirror = self._task_inputs(task, values, *path, "mirror")
            outputs = list(_outputs(task.outputs, values, *path, "outputs"))
            on_failure = list(_outputs(task.on_failure, values, *path, "on_failure"))
            after = self._after(task, values, *path)
            of_values = self._of_values(task, values, *path, "values")
            with at(*path, _key_of_name(task)):
                self.job.add(
                    values["task"],
                    commands,
                    mirror=[*own, *mirror],
                    outputs=outputs,
                    on_failure=on_failure,
                    after=after,
                    retries=task.retries,
                    time_limit=limit,
                    parameters=case.parameters,
                    values=of_values,
                )

    def _named(self, task: TaskTable, case: Case, *path: str | int) -> Values:
        """The values for one task; its name, which must be new, is that of ``task``."""
        values = {**self.values, **case.values}
        with at(*path, _key_of_name(task)):
            template = _name_of(task, case)
            name = fill(template, values)
            if name in self.origins:
                raise BadJob(f"task {name}", _duplicate_name(template, case, self.origins[name]))
        self.origins[name] = case.origin
        return {**values, "task": name}

    def _env(self, task: TaskTable, values: Values, *path: str | int) -> dict[str, str]:
        own = _filled_env(task.env, values, *path, "env")
        return {**_filled_env(self.table.env, values, "env"), **own}

    def _task_inputs(
        self, task: TaskTable, values: Values, *path: str | int
    ) -> list[Mirror | OutputsOf]:
        inputs = list(_inputs(task.mirror, values, *path))
        for where, given in inputs:
            for pattern in given.tasks if isinstance(given, OutputsOf) else ():
                self.awaited.setdefault(pattern, (*where, "outputs_of"))
        return [given for _, given in inputs]

    def _of_values(self, task: TaskTable, values: Values, *path: str | int) -> str | None:
        if task.values is None:
            return None
        with at(*path):
            of_values = fill(task.values, values)
            safe_target(of_values or ".")
        return of_values

    def _after(self, task: TaskTable, values: Values, *path: str | int) -> list[str]:
        filled = []
        for where, pattern in items_of(task.after, *path, "after"):
            with at(*where):
                filled.append(fill_pattern(pattern, values))
            self.awaited.setdefault(filled[-1], where)
        return filled

    def _check_awaited(self) -> None:
        names = self.job.tasks
        for pattern, where in self.awaited.items():
            if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
                raise Problem(where, no_task_named(pattern, list(names)))


def _name_of(task: TaskTable, case: Case) -> str:
    if task.name is None and not case.name:
        raise BadJob("a task without foreach", 'needs a name; add name = "..."')
    return case.name if task.name is None else task.name


def _key_of_name(task: TaskTable) -> str:
    """The key that contains a bad name."""
    return "foreach" if task.name is None else "name"


def _duplicate_name(template: str, case: Case, other: str) -> str:
    if case.file is None and other == case.origin:
        hint = "give it once, or put {index} into the name"
        return f"is made twice, as {case.origin} is given twice; {hint}"
    own = [key for key in case.values if key != "index"]
    keys = own if case.file is None else ["name", "parent", "index"]
    unused = [f"{{{key}}}" for key in keys if f"{{{key}" not in template]
    hint = f"put {' or '.join(unused)} into its" if unused else "give one of them a different"
    return f"is made twice, for {other} and for {case.origin}; {hint} name"


def _seconds(limit: float | str | None, *path: str | int) -> float | None:
    if limit is None:
        return None
    seconds = seconds_in(limit) if isinstance(limit, str) else float(limit)
    if seconds is not None and math.isfinite(seconds) and seconds > 0:
        return seconds
    raise Problem(path, f"{described(limit)} is not a time limit; {TIMES}")


def _commands(
    steps: str | list[str | list[str] | StepTable], *path: str | int
) -> Iterator[tuple[KeyPath, Command]]:
    """The steps as commands whose placeholders are still to be filled."""
    if not steps:
        raise Problem(path, 'a task needs a step; add a command line: steps = ["prog {input}"]')
    for where, step in items_of(steps, *path):
        with at(*where):
            yield where, _command_of(step, where)


def _command_of(step: str | list[str] | StepTable, where: KeyPath) -> Command:
    if not isinstance(step, StepTable):
        return command(step)
    return command(
        step.run,
        shell=step.shell,
        time_limit=_seconds(step.time_limit, *where, "time_limit"),
        env=step.env,
        stdin=step.stdin,
        stdout=step.stdout,
    )


def _filled_step(
    step: Command, values: Values, env: Mapping[str, str], *path: str | int
) -> Command:
    with at(*path):
        filled = fill_command(step, values)
    return replace(filled, env={**env, **filled.env}) if env else filled


def _filled_env(env: Mapping[str, str], values: Values, *path: str | int) -> dict[str, str]:
    filled = {}
    for name, value in env.items():
        with at(*path, name):
            check_variables([name])
            filled[name] = fill(value, values)
    return filled


def _inputs(
    given: Mirrors, values: Values, *path: str | int
) -> Iterator[tuple[KeyPath, Mirror | OutputsOf]]:
    for where, pattern, entry in _entries(given, *path):
        with at(*where):
            if not isinstance(entry, str) and entry.outputs_of is not None:
                yield where, _outputs_of(entry.outputs_of, pattern, entry, values)
                continue
            if pattern is None:
                raise missing("pattern", where)
            mirror = _mirror(pattern, entry, values)
            safe_target(mirror.to)
        yield where, mirror


def _mirror(pattern: str, entry: str | MirrorTo, values: Values) -> Mirror:
    if isinstance(entry, str):
        return Mirror(fill_pattern(pattern, values), fill(entry, values))
    return Mirror(
        fill_pattern(pattern, values),
        fill(entry.to, values),
        None if entry.rename is None else fill_rename(entry.rename, values),
        _excluded(entry, values),
        entry.required,
        entry.readonly,
        entry.mode,
        entry.executable,
    )


def _outputs_of(
    tasks: str | list[str], pattern: str | None, entry: MirrorTo, values: Values
) -> OutputsOf:
    names = [tasks] if isinstance(tasks, str) else tasks
    return OutputsOf(
        tuple(fill_pattern(name, values) for name in names),
        None if pattern is None else fill_pattern(pattern, values),
        fill(entry.to, values),
        None if entry.rename is None else fill_rename(entry.rename, values),
        _excluded(entry, values),
        entry.required,
        entry.readonly,
        entry.mode,
    )


def _excluded(entry: MirrorTo, values: Values) -> tuple[str, ...]:
    exclude = [entry.exclude] if isinstance(entry.exclude, str) else entry.exclude
    return tuple(fill_pattern(one, values) for one in exclude)


def _outputs(given: Outputs, values: Values, *path: str | int) -> Iterator[Output]:
    for where, pattern, entry in _entries(given, *path):
        with at(*where):
            output = _output(pattern, entry, values)
            safe_target(output.pattern)
        yield output


def _output(pattern: str, entry: str | OutputTo, values: Values) -> Output:
    if isinstance(entry, str):
        return Output(fill_pattern(pattern, values), fill(entry, values))
    return Output(
        fill_pattern(pattern, values),
        fill(entry.to, values),
        None if entry.rename is None else fill_rename(entry.rename, values),
        entry.required,
        entry.existing,
    )


def _entries(given: Mirrors | Outputs, *path: str | int) -> Iterator[tuple[KeyPath, Any, Any]]:
    """Path, pattern and the rest (a folder or a table) of each entry, whatever the form."""
    if isinstance(given, dict):
        for pattern, entry in given.items():
            yield (*path, pattern), pattern, entry
        return
    for where, item in items_of(given, *path):
        if isinstance(item, MirrorItem | OutputItem):
            yield where, item.pattern, item
        else:
            yield where, item, "."
