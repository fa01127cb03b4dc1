"""The definition of a job: shared inputs, tasks, and a destination."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from encamp.errors import BadJob
from encamp.jobs.calling_code import in_notebook
from encamp.jobs.outputs_of import InputMap, as_inputs
from encamp.jobs.parameter_columns import checked_parameters
from encamp.jobs.steps import Step, Task, as_steps
from encamp.number_checks import as_number, as_whole
from encamp.storage.disk.path_to_destination import named
from encamp.storage.inputs.mirror import MirrorMap, safe_target
from encamp.storage.outputs.patterns import OutputMap, as_outputs
from encamp.storage.real_paths import current_folder
from encamp.storage.urls import folder_name
from encamp.task_values import Scalar
from encamp.units import counted, parse_size

if TYPE_CHECKING:
    from encamp.reports import JobReport

SUFFIX = ".job"
"""The ending of names of jobs' own folders."""
LOG_LIMIT = "ENCAMP_LOG_LIMIT"
"""Environment variable with the default limit of logs."""
_USUAL_LOG_LIMIT = 8 << 20
_LEAST_LOG_LIMIT = 1 << 10


class JobDefinition:
    """The definition of a job; `Job` adds how it is run."""

    report: JobReport | None = None
    """The report of its last run in this program, even if it failed or was interrupted."""

    def __init__(
        self,
        name: str,
        *,
        to: str | Path,
        mirror: MirrorMap = (),
        retries: int = 0,
        time_limit: float | None = None,
        log_limit: int | str | None = None,
        base: str | Path | None = None,
        shared: bool = False,
    ) -> None:
        self.name = _checked_name(name, "job")
        self.base = Path(base or current_folder()).absolute()
        self.goes_to(to, self.base)
        self.mirror, taken = as_inputs(mirror)
        if taken:
            why = "is for the mirror of a task, since job inputs must exist before any task runs"
            raise BadJob(str(taken[0]), why)
        self.shared = bool(shared)
        self.retries = checked_retries(name, retries)
        self.time_limit = checked_limit(name, time_limit)
        self.log_limit = checked_log_limit(name, log_limit)
        self.tasks: dict[str, Task] = {}

    def goes_to(self, to: str | Path, base: Path) -> None:
        """Set a different destination, below ``base`` if it is a relative path."""
        if not isinstance(to, str | os.PathLike):
            raise BadJob("to", f"must be a folder or a URL, not {to!r}")
        if to == "":
            raise BadJob("to", "is empty; name a folder ('.' for the current one) or a URL")
        folder = folder_name(to)
        self.to = base / folder
        self.folder = self.to / f"{self.name}{SUFFIX}"
        """The folder with the job's journal, report and logs."""
        self._below = None if folder.startswith("/") else base

    def true_folder(self, *, shared: bool = False) -> Path:
        """`folder` without symlinks. Raises `BadDestination` for another user's link in its path.

        ``shared`` is whether a group shares the job.
        """
        below, to = self._below, self.to
        if below is not None and to.is_relative_to(below):
            to = to.relative_to(below)
        return named(below or self.base, to, shared=shared or self.shared) / self.folder.name

    def add(
        self,
        name: str,
        steps: Step | Iterable[Step],
        *,
        mirror: InputMap = (),
        outputs: OutputMap = (),
        on_failure: OutputMap = (),
        after: str | Iterable[str] = (),
        retries: int | None = None,
        time_limit: float | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        values: str | None = None,
    ) -> Task:
        """Add a task.

        steps
            Functions (see `call` for their arguments) and command lines, which run one after the
            other in the task's folder.
        mirror
            The task's own inputs, which may include outputs of other tasks of this job
            (`outputs_of`).
        outputs, on_failure
            Files to publish when the task has succeeded; files to publish, if they exist, when it
            fails or is killed.
        after
            Names of tasks that must be done first, or patterns for names (``"strip-*"``). Patterns
            in ``mirror`` are then looked up when those tasks are done.
        retries, time_limit
            Further attempts after a failure, and seconds for one attempt; by default those of the
            job.
        values
            A file that the steps write, with the task's values (the ``value`` of its `TaskReport`).
            By default, the values are those that the last function returns.
        parameters
            The first columns of the job's table. By default, these are the arguments of that
            function that are numbers, strings or Booleans.

        Raises `BadJob` for a name that is used twice, for a task without steps, and for bad
        numbers.
        """
        _checked_name(name, "task")
        if name in self.tasks:
            again = "; or run the cell that creates the Job again, too" if in_notebook() else ""
            raise BadJob(f"task {name}", f"occurs twice; give every task its own name{again}")
        mirrors, taken = as_inputs(mirror)
        task = Task(
            name,
            as_steps(steps),
            mirrors,
            as_outputs(outputs),
            tuple([replace(output, required=False) for output in as_outputs(on_failure)]),
            names_given("after", after),
            self.retries if retries is None else checked_retries(name, retries),
            self.time_limit if time_limit is None else checked_limit(name, time_limit),
            taken,
            checked_parameters(name, parameters),
            _checked_values(name, values),
        )
        if not task.steps:
            raise BadJob(f"task {name}", "has no steps")
        self.tasks[name] = task
        return task

    def __repr__(self) -> str:
        return f"<Job {self.name!r}: {counted(len(self.tasks), 'task')}, to {str(self.to)!r}>"


def _checked_name(name: str, kind: str) -> str:
    if not isinstance(name, str):
        raise BadJob(f"the {kind} name {name!r}", "must be a string")
    if (
        not name
        or name in (".", "..")
        or "/" in name
        or "\0" in name
        or len(os.fsencode(name)) > 200
    ):
        raise BadJob(
            f"the {kind} name {name!r}", "must be a file name: not empty, no '/', at most 200 bytes"
        )
    return name


def names_given(option: str, given: object) -> tuple[str, ...]:
    """The names or patterns of tasks that an option has. Raises `BadJob`."""
    names = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise BadJob(option, f"must be names of tasks, or patterns for them, not {name!r}")
    return names


def _checked_values(name: str, values: str | None) -> str | None:
    if values is not None:
        if not isinstance(values, str) or not values:
            raise BadJob(name, f"values must name a file in the task's folder, not {values!r}")
        safe_target(values)
    return values


def checked_log_limit(name: str, limit: int | str | None) -> int:
    """The limit of a log in bytes. Raises `BadJob`."""
    if limit is None:
        given = os.environ.get(LOG_LIMIT)
        return checked_log_limit(LOG_LIMIT, given) if given else _USUAL_LOG_LIMIT
    size = parse_size(limit) if isinstance(limit, str) else limit
    if not isinstance(size, int) or isinstance(size, bool) or size < _LEAST_LOG_LIMIT:
        why = f"must be a size of {_LEAST_LOG_LIMIT} bytes or more, such as '20 MiB', not {limit!r}"
        raise BadJob(name, f"the limit of logs {why}")
    return size


def checked_retries(name: str, retries: int) -> int:
    """A number of retries. Raises `BadJob`."""
    number = as_whole(retries)
    if number is None:
        raise BadJob(name, f"retries must be an integer, not {retries!r}")
    if number < 0:
        raise BadJob(name, f"retries must be 0 or more, not {retries}")
    return number


def checked_limit(name: str, limit: float | None) -> float | None:
    """A time limit in seconds. Raises `BadJob`."""
    if limit is None:
        return None
    seconds = as_number(limit)
    if seconds is None:
        raise BadJob(name, f"the time limit must be a number of seconds, not {limit!r}")
    if not seconds > 0:
        raise BadJob(name, f"the time limit must be more than 0 seconds, not {limit}")
    return seconds
