"""``encamp status``: how the jobs in a destination stand."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections import Counter
from pathlib import Path

from encamp.errors import BadJob, NotOurs, printable, shown
from encamp.jobs.journal import NAME, Journal
from encamp.jobs.report.last_report import last_check
from encamp.jobs.report.report import Outline, read_outline
from encamp.jobs.worker.lease import leases
from encamp.model import State
from encamp.storage.disk.own_files import OwnFolder
from encamp.storage.sizes import counted


def status_command(destination: Path, *, shared: bool = False) -> None:
    """Print the state of every job that has its folder in ``destination``.

    Raises `NotOurs` if there is one job, and it may be another user's.
    """
    folders = job_folders(destination)
    for folder in folders:
        try:
            _status(OwnFolder(folder, shared))
        except NotOurs as exc:
            if len(folders) == 1:
                raise
            _say(str(exc))


def job_folders(destination: Path) -> list[Path]:
    """The folders of jobs that have run to a destination, or the one that it is itself.

    Raises `BadJob` if there is none.
    """
    if not destination.is_dir():
        raise BadJob(str(destination), "there is no such folder; name a job's destination")
    folders = [destination] if destination.suffix == ".job" else sorted(destination.glob("*.job"))
    folders = [folder for folder in folders if os.path.lexists(folder / NAME)]
    if not folders:
        raise BadJob(str(destination), "no job has run to this folder; name a job's destination")
    return folders


def _status(own: OwnFolder) -> None:
    folder = own.path
    journal = Journal(folder, shared=own.shared)
    journal.read()
    name = printable(folder.name.removesuffix(".job"))
    done = counted(sum(1 for _ in journal.current()), "task")
    report = folder / "report.json"
    for _, facts in leases(own):
        who = f"process {facts.pid} on {printable(facts.host)}" if facts else "another process"
        if _locked(own) and not (facts is not None and facts.known_dead):
            _say(f"{name}: being run by {who}; {done} done so far")
        else:
            _say(f"{name}: {done} done; the last run, by {who}, was killed; run again to go on")
        return
    if not report.exists():
        _say(f"{name}: {done} done; no run of it has ended yet")
        return
    _tell(read_outline(report, shared=own.shared), name, own)


def _locked(folder: OwnFolder) -> bool:
    """Whether some process, on any host, runs the job in ``folder``; see fcntl(2), F_GETLK."""
    question = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with folder.opened() as files, os.fdopen(files.open("lock"), "rb") as file:
            answer: bytes = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return True  # a disk without locks does not contradict the lease
    return int(struct.unpack_from("h", answer)[0]) != fcntl.F_UNLCK


def _tell(report: Outline, name: str, own: OwnFolder) -> None:
    folder = own.path
    states: tuple[State, ...] = ("done", "up to date", "failed", "blocked", "waiting")
    found = Counter(task.state for task in report.tasks)
    counts = ", ".join(
        [f"{found[state]} {state}" for state in states if found[state]]
        + ([f"{report.not_selected} not selected"] if report.not_selected else [])
    )
    how = "stopped" if report.interrupted else "ended"
    if (check := last_check(folder, shared=own.shared)) is not None:
        _say(
            f"{name}: {check.tasks} up to date; the last run ended {_when(check.ended)}, "
            f"nothing had to run; the report is of the run that {how} {_when(report.ended)}"
        )
        _say(f"  report: {printable(folder / 'report.html')}")
        return
    _say(f"{name}: {counts}; the last run {how} {_when(report.ended)}")
    for task in report.tasks:
        if task.state == "failed":
            log = f" (log: {printable(folder / task.log)})" if task.log else ""
            _say(f"  failed: {printable(task.name)}: {task.why}{log}")
    _say(f"  report: {printable(folder / 'report.html')}")


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


def _say(text: str) -> None:
    print(shown(text))  # noqa: T201 - the command's answer
