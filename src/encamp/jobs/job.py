"""A job as its user writes it: shared inputs, tasks, and a destination."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encamp.errors import BadJob
from encamp.jobs.outputs_of import InputMap, as_inputs
from encamp.jobs.report.parameters import checked_parameters
from encamp.jobs.steps import Step, Task, as_steps
from encamp.quantities import as_number, as_whole, whole
from encamp.sizes import parse_size
from encamp.storage.disk.trusted import named
from encamp.storage.inputs.mirror import MirrorMap, safe_target
from encamp.storage.outputs.patterns import OutputMap, as_outputs
from encamp.storage.roots import current_folder
from encamp.storage.urls import folder_name
from encamp.values import Scalar

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster
    from encamp.jobs.display.progress import Progress
    from encamp.jobs.worker.work import Keep
    from encamp.model import JobReport

SUFFIX = ".job"
"""What names of jobs' own folders end with."""
LOG_LIMIT = "ENCAMP_LOG_LIMIT"
"""Environment variable with the limit of logs, where a job does not say."""
_USUAL_LOG_LIMIT = 8 << 20
_LEAST_LOG_LIMIT = 1 << 10
_LISTED = 10
"""Tasks that a notebook shows."""


class Job:
    """Tasks that share input files and a destination.

    name
        Name of the job; its journal, report and logs go to ``<to>/<name>.job/``.
    to
        Destination folder; relative destinations of outputs are below it.
    mirror
        Job inputs: files that every task finds in its folder. Each host fetches them once, however
        many tasks run there.
    retries, time_limit
        Defaults for the job's tasks: further attempts after a failure, seconds for one attempt.
    log_limit
        Bytes of an attempt's log to keep, or a size such as "20 MiB": half of them from the
        beginning, half from the end, with a line between them that says what is left out (default:
        ENCAMP_LOG_LIMIT, or 8 MiB).
    base
        Folder from which relative patterns and destinations start (default: the current folder).
    shared
        Whether all members of the group that owns the job's folder may run the job. They can then
        change what it knows of its results; otherwise only its owner can.
    """

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
        self.retries = _checked_retries(name, retries)
        self.time_limit = _checked_limit(name, time_limit)
        self.log_limit = checked_log_limit(name, log_limit)
        self.tasks: dict[str, Task] = {}
        self.report: JobReport | None = None
        """Of its last run in this program."""

    def goes_to(self, to: str | Path, base: Path) -> None:
        """Set another destination, below ``base`` if it is a relative path."""
        if not isinstance(to, str | os.PathLike):
            raise BadJob("to", f"must be a folder or a URL, not {to!r}")
        folder = folder_name(to)
        self.to = base / folder
        self._below = None if folder.startswith("/") else base

    @property
    def folder(self) -> Path:
        """The folder with the job's journal, report and logs."""
        return self.to / f"{self.name}{SUFFIX}"

    def true_folder(self, *, shared: bool = False) -> Path:
        """`folder` without symlinks. Raises `BadDestination` for another user's link in its path.

        ``shared`` says whether a group shares the job.
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

        ``steps`` run one after the other in the task's folder: functions (see `call` for arguments)
        and command lines. ``mirror`` may include outputs of other tasks of this job, see
        `outputs_of`. ``after`` names tasks that must be done first, also as glob patterns
        (``"strip-*"``); patterns in ``mirror`` are then looked up when those tasks are done.
        ``on_failure`` names files to publish, if they exist, when the task fails or is killed.
        ``values`` names a file that the steps write, with the task's values (see
        `TaskReport.value`); by default the values are those that the last function returns.
        ``parameters`` are the first columns of the job's table, by default the arguments of that
        function that are numbers, texts or truth values. Raises `BadJob` for a name used twice, no
        step, or bad numbers.
        """
        _checked_name(name, "task")
        if name in self.tasks:
            raise BadJob(f"task {name}", "occurs twice; give every task its own name")
        mirrors, taken = as_inputs(mirror)
        task = Task(
            name,
            as_steps(steps),
            mirrors,
            as_outputs(outputs),
            tuple(replace(output, required=False) for output in as_outputs(on_failure)),
            (after,) if isinstance(after, str) else tuple(after),
            self.retries if retries is None else _checked_retries(name, retries),
            self.time_limit if time_limit is None else _checked_limit(name, time_limit),
            taken,
            checked_parameters(name, parameters),
            _checked_values(name, values),
        )
        if not task.steps:
            raise BadJob(f"task {name}", "has no steps")
        self.tasks[name] = task
        return task

    def run(
        self,
        executor: Executor | Cluster | None = None,
        *,
        slots: int | None = None,
        engine: str | None = None,
        force: bool | None = None,
        dry_run: bool | None = None,
        keep: Keep | None = None,
        only: str | Iterable[str] | None = None,
        failed: bool | None = None,
        max_failures: int | None = None,
        check: bool = True,
        progress: Progress | None = None,
        **engine_options: Any,
    ) -> JobReport:
        """Run what is missing or has changed; blocks until all tasks have ended.

        executor
            Any `concurrent.futures.Executor`, or a `Cluster`; by default the job starts its own
            slots.
        slots, engine, engine_options
            Used without ``executor``: the number of slots (by default one for each core), the
            engine (by default "local"), and other options of `Cluster` (``hosts=["node1"]``).
        force
            Run all tasks, even if they are up to date.
        dry_run
            Only say in the report what would run, and why. ``encamp run --dry-run`` ends a script
            with SystemExit at its first job that has something to do.
        keep
            Which task folders to keep: "never", "failed" or "always".
        only
            Names of tasks, or patterns such as ``"mc-*"``: only these run, and the tasks that they
            depend on if those are missing or have changed. The report contains only these.
        failed
            Run only tasks that failed in their last run.
        max_failures
            Start no more tasks after so many failures. Running tasks still end, so at most as many
            more may fail as there are slots (or workers of an executor, if it tells their number).
        check
            Raise `JobFailed` at the end if tasks failed; it carries the report.
        progress
            An object whose methods are called during the run, see
            `encamp.jobs.display.progress.Progress`. The default is a display if standard error is a
            terminal, and in notebooks; otherwise a script prints a line for each task, and a
            library prints nothing.

        Options that are None are taken from the ``encamp run`` command line, if the script runs
        under it. Tasks that fail do not stop tasks that do not depend on them. Raises an
        `InputError` for a job that cannot work, before anything runs, and `JobBusy` if another
        process runs this job. Ctrl-C stops the running tasks, and so does any signal that ends a
        program (SIGTERM, SIGHUP, a batch system's warning); finished tasks stay done, and the next
        run continues from there.
        """
        from encamp.jobs.options import check_spelling, current
        from encamp.jobs.run import run_job
        from encamp.model import JobFailed

        check_spelling(engine_options, Job.run)
        if keep not in (None, "never", "failed", "always"):
            raise BadJob(f"keep={keep!r}", "is not known; use 'never', 'failed' or 'always'")
        most = None if max_failures is None else whole("max_failures", max_failures, 1)
        given: dict[str, Any] = {
            "workers": slots,
            "engine": engine,
            "force": force,
            "dry_run": dry_run or None,  # a script does not overrule the command
            "keep": keep,
            "only": (only,) if isinstance(only, str) else only and tuple(only),
            "failed": failed,
            "max_failures": most,
            "progress": progress,
            "engine_options": engine_options or None,
        }
        options = replace(current.get(), **{k: v for k, v in given.items() if v is not None})
        try:
            self.report = run_job(self, executor, options, check=check)
        except JobFailed as exc:
            self.report = exc.report
            raise
        return self.report

    def __repr__(self) -> str:
        return f"<Job {self.name!r}: {len(self.tasks)} tasks, to {str(self.to)!r}>"

    def _repr_html_(self) -> str:
        from encamp.markup import box, heading, table

        some = list(self.tasks.values())[:_LISTED]
        rows = [
            (
                task.name,
                ", ".join(step.label for step in task.steps),
                ", ".join(output.pattern for output in task.outputs),
            )
            for task in some
        ]
        head = heading(f"Job {self.name}", f"{len(self.tasks)} tasks, to {self.to}")
        return box(head, table(("task", "steps", "outputs"), rows, len(self.tasks) - len(rows)))


def _checked_name(name: str, kind: str) -> str:
    if not isinstance(name, str):
        raise BadJob(f"the {kind} name {name!r}", "must be text")
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
        why = f"must be a size of {_LEAST_LOG_LIMIT} bytes or more, as '20 MiB', not {limit!r}"
        raise BadJob(name, f"the limit of logs {why}")
    return size


def _checked_retries(name: str, retries: int) -> int:
    number = as_whole(retries)
    if number is None:
        raise BadJob(name, f"retries must be a whole number, not {retries!r}")
    if number < 0:
        raise BadJob(name, f"retries must be 0 or more, not {retries}")
    return number


def _checked_limit(name: str, limit: float | None) -> float | None:
    seconds = as_number(limit)
    if limit is not None and seconds is None:
        raise BadJob(name, f"the time limit must be a number of seconds, not {limit!r}")
    if seconds is not None and not seconds > 0:
        raise BadJob(name, f"the time limit must be more than 0 seconds, not {limit}")
    return seconds
