"""``encamp show``: everything about one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from encamp.cli.read_job_status import is_run, job_folders, moment_text
from encamp.errors import BadJob, InputError, NotOurs, printable, shown
from encamp.jobs.display.terminal import kept_text
from encamp.jobs.file.jobfile import load_job
from encamp.jobs.job import Job
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Line
from encamp.jobs.plan.selection import no_task_named
from encamp.jobs.report.read_report import NAME as REPORT
from encamp.jobs.report.read_report import read_outline, read_task
from encamp.jobs.steps import lines_of
from encamp.reports import AttemptReport, TaskReport
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.task_values import rounded
from encamp.units import counted, size_text, time_text

_MOST_LOG = 1 << 30
_LISTED = 20
"""The number of the last outputs and attempts that are shown."""


def show_command(place: Path, task: str, *, shared: bool = False) -> None:
    """Print everything about a task of a job file, or of the jobs in a destination."""
    job = load_job(place) if place.suffix == ".toml" else None
    if job is not None and task not in job.tasks:
        raise BadJob(f"task {task}", no_task_named(task, list(job.tasks)))
    folders = [job.folder] if job is not None else job_folders(place)
    for line in _lines(folders, job, task, shared):
        print(shown(line))  # noqa: T201 - the command's answer


def _lines(folders: list[Path], job: Job | None, task: str, shared: bool) -> Iterator[str]:
    known: list[str] = []
    found = False
    refused: list[InputError] = []
    for folder in folders:
        own = TrustedFolder(folder, shared)
        try:
            report = _report_of(task, own, known)
        except (NotOurs, BadJob) as exc:  # the folder of another job may be another user's
            refused.append(exc)
            continue
        if report is not None:
            found = True
            job_name = folder.name.removesuffix(".job")
            yield from _of_report(report, job_name if len(folders) > 1 else None)
            yield from ([] if job is None else _of_job(job, task))
            yield from [] if report.state in ("running", "waiting") else _of_log(report, own)
    if refused and not found:
        raise refused[0]
    yield from (f"warning: {exc}" for exc in refused)
    if not found and job is None:
        raise BadJob(f"task {task}", no_task_named(task, sorted(set(known))))
    if not found and job is not None:
        yield f"{printable(task)}: has not run yet"
        yield from _of_job(job, task)


def _report_of(task: str, own: TrustedFolder, known: list[str]) -> TaskReport | None:
    """The task's report, from the last report or a newer record of the journal.

    ``known`` collects the names of other tasks, if this one is unknown.
    """
    reported, ended = _in_report(task, own)
    last: Line | None = None

    def watch(line: Line) -> None:
        nonlocal last
        if line.task == task and line.event in ("submitted", "failed", "done"):
            last = line

    journal = Journal(own.path, shared=own.shared)
    journal.read(watch)
    if last is None and reported is None:
        known += _names_in_report(own) | journal.tasks | {*journal.failed}
    if last is None or (reported is not None and not _is_newer(last, reported, ended)):
        return reported
    if last.event == "submitted":
        return _handed_over(last, own)
    record = (journal.done if last.event == "done" else journal.failed).get(task)
    if record is None:
        return reported
    return record.report or TaskReport(task, "failed", why="the journal has no reason for it")


def _in_report(task: str, own: TrustedFolder) -> tuple[TaskReport | None, float]:
    """The task in the report of the last run, and when that run ended."""
    if not (own.path / REPORT).exists():
        return None, 0.0
    return read_task(own.path / REPORT, task, shared=own.shared)


def _names_in_report(own: TrustedFolder) -> set[str]:
    if not (own.path / REPORT).exists():
        return set()
    return {one.name for one in read_outline(own.path / REPORT, shared=own.shared).tasks}


def _is_newer(line: Line, report: TaskReport, ended: float) -> bool:
    """Whether a record of the journal is newer than the report; old records lose their times."""
    was_done = report.state in ("done", "up to date")
    return line.time > ended or (was_done and line.event != "done")


def _handed_over(line: Line, own: TrustedFolder) -> TaskReport:
    """The report of a task whose last attempt has not ended."""
    number = f"attempt {line.attempt}"
    if is_run(own):
        why = f"{number} was submitted at {moment_text(line.time)}"
        return TaskReport(line.task, "running", why=why)
    return TaskReport(line.task, "waiting", why=f"its run was killed before {number} ended")


def _of_report(report: TaskReport, job: str | None) -> Iterator[str]:
    """The lines of a report; ``job`` names its job if there are several."""
    whose = "" if job is None else f" of the job {printable(job)}"
    why = f" ({report.why})" if report.why else ""
    yield f"{printable(report.name)}{whose}: {report.state}{why}"
    if report.parameters:
        yield f"  parameters: {_pairs(report.parameters)}"
    if report.value is not None:
        value = report.value if isinstance(report.value, dict) else {"value": report.value}
        yield f"  values: {_pairs(value)}"
    yield from _more(len(report.attempts), "earlier attempt", "earlier attempts")
    for attempt in report.attempts[-_LISTED:]:
        yield from _of_attempt(attempt, report.why)
    for one in report.inputs:
        when = moment_text(one.mtime_ns / 1e9)
        yield f"  input: {printable(one.path)} ({size_text(one.size)}, of {when})"
    if report.more_inputs:
        yield f"  and {counted(report.more_inputs, 'more input', 'more inputs')}"
    outputs = [*report.outputs, *report.rescued]
    for output in outputs[-_LISTED:]:
        yield f"  output: {printable(output.path)} ({size_text(output.size)})"
    yield from _more(len(outputs), "more output", "more outputs")
    if report.kept:
        yield f"  folder: {kept_text(report.kept)}"
    elif report.state == "failed":
        yield "  folder: removed; --keep failed keeps it in the next run"


def _more(count: int, one: str, many: str) -> Iterator[str]:
    """A line for those of ``count`` attempts or outputs that are not shown."""
    if count > _LISTED:
        yield f"  and {counted(count - _LISTED, one, many)}"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(
        f"{printable(str(name))} = {rounded(value)!r}" for name, value in values.items()
    )


def _of_attempt(attempt: AttemptReport, reported: str) -> Iterator[str]:
    where = f" on {attempt.where.host} ({attempt.where.worker})" if attempt.where else ""
    error = f" {attempt.error}" if attempt.error and attempt.error != reported else ""
    yield f"  attempt {attempt.number}{where}:{error}"
    for span in attempt.phases:
        yield f"    {time_text(span.seconds):>8}  {printable(span.name)}"


def _of_job(job: Job, task: str) -> Iterator[str]:
    """The lines of the job file about the task."""
    for step in job.tasks[task].steps:
        yield from (f"  {line}" for line in lines_of(step))
    for mirror in (*job.mirror, *job.tasks[task].mirror):
        yield f"  mirror: {printable(mirror.pattern)}"


def _of_log(report: TaskReport, folder: TrustedFolder) -> Iterator[str]:
    if report.log is None:
        yield "  log: empty"
        return
    yield f"  log: {printable(folder.path / report.log)}"
    try:
        with folder.opened() as files, closing(files.below("logs")) as logs:
            text = logs.read(Path(report.log).name, _MOST_LOG).decode("utf-8", "replace")
    except OSError as exc:
        yield f"    (cannot be read: {exc.strerror})"
        return
    for line in text.splitlines():
        yield f"  | {printable(line)}"
