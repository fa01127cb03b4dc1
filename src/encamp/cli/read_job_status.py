"""The state of the jobs in a destination, read from their folders: as data, and as text."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from encamp.errors import BadJob, printable
from encamp.job_status import FailedTask, JobStatus, State
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.journal_file import NAME
from encamp.jobs.plan.orphans import count_of, orphans
from encamp.jobs.report.keep_report import last_check
from encamp.jobs.report.read_report import Outline, read_outline
from encamp.jobs.report.status_file import last_status
from encamp.jobs.run_lease import leases
from encamp.reports import orphans_text
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.process_identity import ProcessFacts
from encamp.units import clock_text, counted

_MOST_FAILED = 20
_MOST_LISTED = 10
"""The number of failed tasks that are listed with their reasons, the same as in a run."""
_MOST_RUNNING = 8
_STATES: tuple[State, ...] = ("running", "waiting", "done", "up to date", "failed", "blocked")
_ENDED: tuple[State, ...] = ("done", "up to date", "failed", "blocked", "waiting")


@dataclass(frozen=True)
class StatusAndText:
    """The state of a job: as data, and as text."""

    status: JobStatus
    lines: list[str]

    @property
    def is_run(self) -> bool:
        """Whether a process is running the job."""
        return self.status.state in ("running", "stopping")


def job_folders(destination: Path) -> list[Path]:
    """The folders of jobs in a destination, which may also be a job's own folder, or a job file.

    Raises `BadJob` if there is none, and the errors of a wrong job file.
    """
    if destination.suffix == ".toml" and not destination.is_dir():
        from encamp.jobs.file.jobfile import load_job  # usually it is a folder

        job = load_job(destination)
        if not os.path.lexists(job.folder / NAME):
            raise BadJob(
                str(destination),
                f"its job {job.name} has not run with the destination {job.to} yet",
            )
        return [job.folder]
    if not destination.is_dir():
        raise BadJob(str(destination), "there is no such folder; name a job's destination")
    folders = [destination] if destination.suffix == ".job" else sorted(destination.glob("*.job"))
    folders = [folder for folder in folders if os.path.lexists(folder / NAME)]
    if not folders:
        raise BadJob(
            str(destination), "no job of this destination has run; name a job's destination"
        )
    return folders


def status_of(own: TrustedFolder) -> StatusAndText:
    """The state of the job in a folder. Raises `NotOurs`, and `BadJob` for a broken report."""
    report = own.path / "report.json"
    for _, facts in leases(own):
        if _goes_on(own, facts):
            return _being_run(own, facts)
        return _killed(own, facts)
    if not report.exists():
        status = _status(own, "ended", "")
        words = f"{printable(status.name)}: {_done(status)}; no run of it has ended yet"
        return StatusAndText(status, [words, *_failures(status)])
    return _ended(read_outline(report, shared=own.shared), own)


def is_run(own: TrustedFolder) -> bool:
    """Whether a process is running the job in a folder. Raises `NotOurs`."""
    return any(_goes_on(own, facts) for _, facts in leases(own))


def _goes_on(own: TrustedFolder, facts: ProcessFacts | None) -> bool:
    return _locked(own) and not (facts is not None and facts.known_dead)


def _status(own: TrustedFolder, state: str, controller: str) -> JobStatus:
    """The state according to the journal alone."""
    journal = Journal(own.path, shared=own.shared)
    journal.read()
    done = sum(1 for _ in journal.current())
    failed = [task for task in journal.failed if task not in journal.left]
    counts: dict[State, int] = {"done": done, "failed": len(failed)}
    return JobStatus(
        name=_name(own),
        folder=str(own.path),
        state=state,  # type: ignore[arg-type]
        controller=controller,
        now=time.time(),
        counts={name: count for name, count in counts.items() if count},
        failed=[FailedTask(task, _why(journal, task)) for task in failed[-_MOST_FAILED:]],
    )


def _why(journal: Journal, task: str) -> str:
    record = journal.failed.get(task)
    return record.report.why if record is not None and record.report is not None else ""


def _name(own: TrustedFolder) -> str:
    return own.path.name.removesuffix(".job")


def _done(status: JobStatus) -> str:
    """``3 tasks done``, and how many failed."""
    failed = status.counts.get("failed", 0)
    done = f"{counted(status.counts.get('done', 0), 'task')} done"
    return f"{done}, {failed} failed" if failed else done


def _failures(status: JobStatus) -> list[str]:
    lines = [
        f"  failed: {printable(one.name)}" + (f": {one.why}" if one.why else "")
        for one in status.failed[:_MOST_LISTED]
    ]
    return lines + _left_out(max(len(status.failed), status.counts.get("failed", 0)))


def _left_out(failed: int) -> list[str]:
    """A line for the failures that are not listed."""
    return [f"  … and {failed - _MOST_LISTED} more failed"] if failed > _MOST_LISTED else []


def _who(facts: ProcessFacts | None) -> str:
    return f"process {facts.pid} on {printable(facts.host)}" if facts else "another process"


def _being_run(own: TrustedFolder, facts: ProcessFacts | None) -> StatusAndText:
    who = _who(facts)
    status = last_status(own)
    if status is None or (facts is not None and status.controller != who):
        status = _status(own, "running", who)
        words = f"{printable(status.name)}: being run by {who}; {_done(status)} so far"
        return StatusAndText(status, [words, *_failures(status)])
    status = replace(status, folder=str(own.path))
    return StatusAndText(status, [f"{printable(status.name)}: being run by {who}", *_live(status)])


def _live(status: JobStatus) -> list[str]:
    """The lines of a running job."""
    counts = ", ".join(f"{status.counts[one]} {one}" for one in _STATES if status.counts.get(one))
    times = "" if status.started is None else f"; elapsed {clock_text(status.now - status.started)}"
    if status.left is not None:
        times += f", about {clock_text(status.left)} left"
    lines = [f"  {counts or 'no task has started'}{times}"]
    if status.handed_over:
        lines.append(f"  {status.handed_over} of the waiting tasks are submitted")
    for task in status.running[:_MOST_RUNNING]:
        again = f", attempt {task.attempt}" if task.attempt > 1 else ""
        ran = clock_text(status.now - task.since)
        lines.append(f"  running: {printable(task.name)} for {ran}{again}")
    if (more := status.counts.get("running", 0) - _MOST_RUNNING) > 0:
        lines.append(f"  and {more} more")
    return lines + _failures(status)


def _killed(own: TrustedFolder, facts: ProcessFacts | None) -> StatusAndText:
    who = _who(facts)
    status = _status(own, "killed", who)
    words = f"{_done(status)}; the last run, by {who}, was killed; run again to continue"
    return StatusAndText(status, [f"{printable(status.name)}: {words}", *_failures(status)])


def _locked(folder: TrustedFolder) -> bool:
    """Whether a process on any host runs the job in ``folder``; see fcntl(2), F_GETLK."""
    question = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with folder.opened() as files, os.fdopen(files.open("lock"), "rb") as file:
            answer: bytes = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return True  # a disk without locks does not contradict the lease
    return int(struct.unpack_from("h", answer)[0]) != fcntl.F_UNLCK


def _ended(report: Outline, own: TrustedFolder) -> StatusAndText:
    folder, name = own.path, printable(_name(own))
    found = Counter(task.state for task in report.tasks)
    how = "stopped" if report.interrupted else "ended"
    failed = [task for task in report.tasks if task.state == "failed"]
    status = JobStatus(
        name=_name(own),
        folder=str(folder),
        state=how,  # type: ignore[arg-type]
        controller=report.controller,
        now=report.ended,
        started=report.started,
        tasks=len(report.tasks),
        counts={state: found[state] for state in _ENDED if found[state]},
        failed=[FailedTask(task.name, task.why) for task in failed[-_MOST_FAILED:]],
    )
    page = [f"  report: {printable(folder / 'report.html')}", *_orphans(report, own)]
    if (check := last_check(folder, shared=own.shared)) is not None:
        words = (
            f"{name}: {check.tasks} up to date; the last run ended {moment_text(check.ended)}; "
            "no task had to run, so the report is that of an earlier run, which "
            f"{how} {moment_text(report.ended)}"
        )
        return StatusAndText(replace(status, now=check.ended), [words, *page])
    counts = ", ".join(
        [f"{found[state]} {state}" for state in _ENDED if found[state]]
        + ([f"{report.not_selected} not selected"] if report.not_selected else [])
    )
    lines = [f"{name}: {counts}; the last run {how} {moment_text(report.ended)}"]
    for task in failed[:_MOST_LISTED]:
        log = f" (log: {printable(folder / task.log)})" if task.log else ""
        lines.append(f"  failed: {printable(task.name)}: {task.why}{log}")
    lines += _left_out(len(failed))
    return StatusAndText(status, [*lines, *page])


def _orphans(report: Outline, own: TrustedFolder) -> list[str]:
    """How many orphans of the report still exist."""
    if not report.orphans:
        return []
    journal = Journal(own.path, shared=own.shared)
    journal.read()
    count = count_of(orphans(journal))
    return [f"  {orphans_text(count, str(own.path.parent))}"] if count else []


def moment_text(seconds: float) -> str:
    """``2026-11-30 17:00:00``, in this host's time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
