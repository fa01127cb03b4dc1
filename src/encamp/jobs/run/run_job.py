"""Running a job: checks it, opens its journal and an executor, and runs the tasks that must run."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from encamp.engines.find_engine import launched
from encamp.jobs.display.choose_display import progress_here
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.plan.selection import NONE_FAILED, Selection
from encamp.jobs.progress_interface import Progress, Shielded, Silent
from encamp.jobs.report.build_reports import job_report
from encamp.jobs.run.dry_run import dry_run
from encamp.jobs.run.executors import check_executor, pool
from encamp.jobs.run.run_loop import RunLoop
from encamp.jobs.run_clock import Clock
from encamp.jobs.run_interrupts import RunInterrupts
from encamp.jobs.run_lease import LeaseHeartbeat
from encamp.jobs.run_options import RunOptions
from encamp.reports import JobFailed, JobReport
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.storage.local_storage import local_storage
from encamp.storage.shared_folders import local

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster


def run_job(
    job: JobDefinition, executor: Executor | Cluster | None, options: RunOptions, *, check: bool
) -> JobReport:
    """Run what is missing or has changed of a job; see `Job.run`."""
    check_executor(executor)
    if options.debugged is not None:
        from encamp.jobs.run.debug_shell import debug  # and pdb, which is for few

        return debug(job, options, options.debugged)
    if options.dry_run:
        return dry_run(job, options, options.progress or Silent())
    progress = options.progress or progress_here()
    shielded = Shielded(progress)
    shared = job.shared or options.shared
    journal = Journal(job.true_folder(shared=shared), shared=shared, is_true=True)
    prepared = Prepared(job, journal)
    selection = Selection(job.tasks, prepared.graph, options)
    reclaim_leftovers(local_storage())
    with ExitStack() as stack:
        together = executor is None and launched(options.engine)
        if together:  # now: the other processes wait to become its agents
            run_on, workers = stack.enter_context(pool(executor, options))
        interrupts = stack.enter_context(RunInterrupts())
        stack.enter_context(journal.writing())
        journal.note_tasks(job.tasks)
        tasks = selection.tasks(journal)
        if not tasks:
            return _nothing_to_run(job, shielded)
        if not together:
            run_on, workers = stack.enter_context(pool(executor, options))
        run = RunLoop(job, tasks, prepared, journal, run_on, workers, options, shielded, interrupts)
        with LeaseHeartbeat(local(run.lease.file)):
            report = run.run()
    if check and not report.ok:
        raise JobFailed(report)
    return report


def _nothing_to_run(job: JobDefinition, progress: Progress) -> JobReport:
    """The report of a run without tasks; the last report stays."""
    progress.began(job.name, 0, None)
    report = job_report(job, [], Clock(), "none", interrupted=False, warnings=[NONE_FAILED])
    job.report = report
    progress.finished(report)
    return report
