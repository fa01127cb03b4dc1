"""The report of a run: its page while tasks run, and all its files at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from encamp.attempt_facts import Published
from encamp.job_status import JobStatus
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.run_lock import refusal
from encamp.jobs.parameter_columns import parameters_of
from encamp.jobs.plan.orphans import OrphanWatch
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.report.build_reports import job_report
from encamp.jobs.report.compressed_reports import CompressedReports
from encamp.jobs.report.keep_report import keep_report
from encamp.jobs.report.manifest import manifest_lines, write_manifest
from encamp.jobs.report.results_csv import facts_of, write_table
from encamp.jobs.report.write_report import write_page
from encamp.jobs.run_clock import Clock
from encamp.reports import JobReport, TaskReport
from encamp.service_statistics import ServiceStatistics
from encamp.task_values import Scalar


class RunReport:
    """The report of a run of ``tasks``; ``ended`` are the reports of its tasks.

    ``executor`` is the executor's name; ``services`` returns the statistics of its services.
    """

    def __init__(
        self,
        job: JobDefinition,
        tasks: Collection[str],
        prepared: Prepared,
        journal: Journal,
        orphans: OrphanWatch,
        executor: str,
        services: Callable[[], list[ServiceStatistics]],
    ) -> None:
        self.ended = CompressedReports(tasks, journal.done, self._parameters_of)
        self.clock = Clock()
        self._job, self._tasks, self._prepared = job, tasks, prepared
        self._journal, self._orphans = journal, orphans
        self._executor, self._services = executor, services
        self._is_whole = len(tasks) == len(job.tasks)
        self._top = str(job.to)
        self._manifest: list[bytes] = []

    def list_outputs(self, outputs: Iterable[Published]) -> None:
        """Add files to the outputs of the job, which its manifest lists."""
        self._manifest += manifest_lines(outputs, self._top)

    def draw(self, status: JobStatus, pause: float, warnings: list[str]) -> None:
        """Write the page during the run; see `write_page`."""
        so_far = self._so_far(self.ended.for_disk(), warnings, interrupted=False)
        write_page(so_far, self._journal.own_folder, status, pause)

    def write(self, warnings: list[str], *, interrupted: bool) -> JobReport:
        """Write all files at the end; ``warnings`` are the run's own."""
        tasks, orphans = self.ended.as_list_if_few(), self._orphans.count
        report = self._so_far(tasks, warnings, interrupted=interrupted, orphans=orphans)
        self._job.report = report
        folder, kept = self._journal.own_folder, self.ended.for_disk(tasks)
        try:
            with folder.opened(make=True) as files:
                write_manifest(files, self._manifest)
                keep_report(report if kept is tasks else replace(report, tasks=kept), files)
                made_of = facts_of(self._job.tasks, self.ended.done) if self._is_whole else None
                write_table(self._with_values, files, made_of)
        except OSError as exc:
            raise refusal(exc, folder.path) from exc
        return report

    def _so_far(
        self,
        tasks: Sequence[TaskReport],
        warnings: list[str],
        *,
        interrupted: bool,
        orphans: int = 0,
    ) -> JobReport:
        prepared, journal = self._prepared, self._journal
        return job_report(
            self._job,
            tasks,
            self.clock,
            self._executor,
            interrupted,
            [*warnings, *prepared.warnings, *journal.warnings, *self._orphans.warnings],
            self._services(),
            prepared.graph.before,
            orphans,
        )

    def _with_values(self) -> Iterator[TaskReport]:
        """Tasks that may have a row in the table, including those outside this run."""
        chosen = frozenset(self._tasks)
        for name in self._job.tasks if self.ended.has_values or not self._is_whole else ():
            if name not in chosen:
                record = self._journal.done.get(name)
                if record is not None and record.report is not None:
                    yield replace(record.report, parameters=self._parameters_of(name))
            elif self.ended.is_done(name):
                yield self.ended.valued(name)

    def _parameters_of(self, name: str) -> dict[str, Scalar]:
        return parameters_of(self._job.tasks[name])
