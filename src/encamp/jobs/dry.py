"""A dry run: what would run, and why."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from encamp.errors import InputError
from encamp.jobs.account import job_report
from encamp.jobs.clock import Clock
from encamp.jobs.graph import Graph
from encamp.jobs.job import Job
from encamp.jobs.journal import Journal
from encamp.jobs.options import Options
from encamp.jobs.orphans import OrphanWatch
from encamp.jobs.prepare import Prepared
from encamp.jobs.progress import Progress
from encamp.model import JobReport, TaskReport


def dry_run(job: Job, options: Options, progress: Progress) -> JobReport:
    """Say what would run and why; nothing is run or written."""
    journal = Journal(job.folder, shared=job.shared or options.shared)
    prepared = Prepared(job, journal)
    journal.read()
    journal.left = journal.tasks.difference(job.tasks)
    graph = Graph(job.tasks)
    orphans = OrphanWatch(journal, job.to)
    orphans.look("the job", prepared.shared)
    reports: dict[str, TaskReport] = {}
    clock = Clock()
    progress.began(job.name, len(job.tasks), None)
    while graph.going_on:
        for name in graph.ready():
            first = next((b for b in graph.before[name] if reports[b].state == "to do"), None)
            if first is not None:
                reports[name] = TaskReport(name, "to do", why=f"it waits for {first}")
            else:
                reports[name] = _foreseen(name, prepared, journal, options)
            if reports[name].state == "to do":
                orphans.foresee(job.tasks[name])
            _look(orphans, name, prepared)
            graph.ended(name)
            progress.ended(reports[name])
    report = job_report(
        job, [reports[name] for name in job.tasks], clock, "dry run", False, orphans.warnings
    )
    progress.finished(report)
    if options.for_script and report.count("to do"):
        raise DryRunEnds(job.name)
    return report


class DryRunEnds(SystemExit):
    """Ends a script: what follows would work on results that are not there."""

    def __init__(self, job: str) -> None:
        super().__init__(0)
        self.job = job


def _look(orphans: OrphanWatch, name: str, prepared: Prepared) -> None:
    """What a task waits for may not be there yet, which is no mistake."""
    with suppress(InputError, OSError):
        orphans.look(f"task {name}", prepared.inputs.of(name))


def _foreseen(name: str, prepared: Prepared, journal: Journal, options: Options) -> TaskReport:
    key = prepared.key(name, prepared.inputs.of(name))
    record = journal.done.get(name)
    why = "it was forced" if options.force else prepared.why_run(name, record, key)
    if why is None and record is not None and record.report is not None:
        return replace(record.report, state="up to date", why="nothing changed")
    return TaskReport(name, "to do", why=why or "")
