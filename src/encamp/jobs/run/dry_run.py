"""A dry run: what would run, and why."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from encamp.errors import InputError
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import seen
from encamp.jobs.parameter_columns import parameters_of
from encamp.jobs.plan.graph import Graph
from encamp.jobs.plan.orphans import OrphanWatch
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.plan.selection import Selection
from encamp.jobs.progress_interface import Progress
from encamp.jobs.report.build_reports import job_report
from encamp.jobs.report.compressed_reports import CompressedReports, report_up_to_date
from encamp.jobs.run_clock import Clock
from encamp.jobs.run_options import RunOptions
from encamp.reports import DRY_RUN, JobReport, TaskReport


def dry_run(job: JobDefinition, options: RunOptions, progress: Progress) -> JobReport:
    """Report what would run and why; runs and writes nothing."""
    shared = job.shared or options.shared
    journal = Journal(job.true_folder(shared=shared), shared=shared, is_true=True)
    prepared = Prepared(job, journal)
    journal.read()
    journal.left = journal.tasks.difference(job.tasks)
    graph = Graph(job.tasks)
    orphans = OrphanWatch(journal, job.to)
    orphans.look("the job", prepared.shared)
    tasks = Selection(job.tasks, graph, options).tasks(journal)
    graph.choose(tasks)
    reports = CompressedReports(tasks, journal.done, lambda name: parameters_of(job.tasks[name]))
    clock = Clock()
    progress.began(job.name, len(tasks), None)
    while graph.going_on:
        for name in graph.ready():
            first = next((b for b in graph.before[name] if reports.state(b) == "to do"), None)
            line = journal.done.line(name)
            waits = None if first is None else f"it waits for {first}"
            why = waits or _why(name, prepared, line, options)
            if why is not None or line is None:
                reports.add(to_do := TaskReport(name, "to do", why=why or ""))
                orphans.foresee(job.tasks[name])
                progress.ended(to_do)
            else:
                reports.up_to_date(name, line)
                report_up_to_date(progress, name, reports)
            _look(orphans, name, prepared)
            graph.ended(name)
    warnings = [*prepared.warnings, *orphans.warnings]
    report = job_report(job, reports.as_list_if_few(), clock, DRY_RUN, False, warnings)
    report = job.report = replace(report, orphans=orphans.count)
    progress.finished(report)
    if options.for_script and report.count("to do"):
        raise DryRunEnds(job.name)
    return report


class DryRunEnds(SystemExit):
    """Ends a script, since the rest would need results that do not exist."""

    def __init__(self, job: str) -> None:
        super().__init__(0)
        self.job = job


def _look(orphans: OrphanWatch, name: str, prepared: Prepared) -> None:
    """Look up inputs; those from tasks that have yet to run may be missing."""
    if not orphans.has_any:
        return
    with suppress(InputError, OSError):
        orphans.look(f"task {name}", prepared.inputs.of(name))


def _why(name: str, prepared: Prepared, line: bytes | None, options: RunOptions) -> str | None:
    inputs = prepared.inputs.of(name)
    key = prepared.key(name, inputs)
    record = seen(line, name) if line else None
    return "it was forced" if options.force else prepared.why_run(name, record, key, inputs)
