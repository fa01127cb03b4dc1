"""A job as its user writes and runs it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from encamp.errors import BadJob
from encamp.jobs.job_definition import JobDefinition, checked_limit, checked_retries, names_given
from encamp.number_checks import whole
from encamp.units import counted

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster
    from encamp.jobs.progress_interface import Progress
    from encamp.jobs.worker.work_and_outcome import Keep
    from encamp.reports import JobReport

_LISTED = 10
"""Tasks that a notebook shows."""


class Job(JobDefinition):
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
        beginning, half from the end, with a line between them about what is left out (default:
        ENCAMP_LOG_LIMIT, or 8 MiB).
    base
        Folder from which relative patterns and destinations start (default: the current folder).
    shared
        Whether all members of the group that owns the job's folder may run the job. They can then
        change the job's records of its results; otherwise only its owner can.
    """

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
        retries: int | None = None,
        time_limit: float | None = None,
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
            Run nothing; the report shows what would run, and why. ``encamp run --dry-run`` ends a
            script with SystemExit at its first job that has something to do.
        keep
            Which task folders to keep: "never", "failed" or "always".
        only
            Names of tasks, or patterns such as ``"mc-*"``: only these run, and the tasks that they
            depend on if those are missing or have changed. The report contains only these.
        failed
            Run only tasks that failed in their last run.
        retries, time_limit
            Override the job's and its tasks' settings: further attempts after a failure, seconds
            for one attempt.
        max_failures
            Start no more tasks after this many failures. Running tasks are not stopped, so at most
            as many more may fail as there are slots (or workers, if the executor reports their
            number).
        check
            Raise `JobFailed` at the end if tasks failed; it carries the report.
        progress
            An object whose methods are called during the run, see `encamp.Progress`. The default
            is a display if standard error is a terminal, and in notebooks; otherwise a script
            prints a line for each task, and a library prints nothing.

        Options that are None are taken from the ``encamp run`` command line, if the script runs
        under it. Tasks that fail do not stop tasks that do not depend on them. Raises an
        `InputError` before anything runs if the job cannot work, and `JobBusy` if it is being run
        already. With ``check`` (the default), raises `JobFailed` at the end if tasks have failed.
        Ctrl-C stops the running tasks, like any signal that ends a program (SIGTERM, SIGHUP, a
        batch system's warning); finished tasks stay done, and the next run continues from there.
        """
        from encamp.jobs.run.run_job import run_job
        from encamp.jobs.run_options import check_spelling, current

        if engine_options:
            check_spelling(engine_options, Job.run)
        if keep not in (None, "never", "failed", "always"):
            raise BadJob(f"keep={keep!r}", "is not known; use 'never', 'failed' or 'always'")
        options = current.options.overridden(
            slots=slots,
            engine=engine,
            force=force,
            dry_run=dry_run or None,  # a script does not overrule the command
            keep=keep,
            only=None if only is None else names_given("only", only),
            failed=failed,
            retries=None if retries is None else checked_retries("job.run", retries),
            time_limit=checked_limit("job.run", time_limit),
            max_failures=None if max_failures is None else whole("max_failures", max_failures, 1),
            progress=progress,
            engine_options=engine_options or None,
        )
        return run_job(self, executor, options, check=check)

    def _repr_html_(self) -> str:
        from encamp.notebook_html import box, heading, table

        some = list(self.tasks.values())[:_LISTED]
        rows = [
            (
                task.name,
                ", ".join(step.label for step in task.steps),
                ", ".join(output.pattern for output in task.outputs),
            )
            for task in some
        ]
        head = heading(f"Job {self.name}", f"{counted(len(self.tasks), 'task')}, to {self.to}")
        return box(head, table(("task", "steps", "outputs"), rows, len(self.tasks) - len(rows)))
