"""``encamp status``: how the jobs in a destination stand."""

from __future__ import annotations

import time
from pathlib import Path

from encamp.errors import UnusableInput, printable
from encamp.jobs.journal import Journal
from encamp.jobs.lease import leases
from encamp.jobs.report import read_report
from encamp.model import JobReport


def status_command(destination: Path) -> None:
    """Print the state of every job that has its folder in ``destination``."""
    if not destination.is_dir():
        raise UnusableInput(str(destination), "there is no such folder")
    folders = [destination] if destination.suffix == ".job" else sorted(destination.glob("*.job"))
    folders = [folder for folder in folders if (folder / "journal.jsonl").exists()]
    if not folders:
        raise UnusableInput(str(destination), "no job has put results there; name its destination")
    for folder in folders:
        _status(folder)


def _status(folder: Path) -> None:
    journal = Journal(folder)
    journal.read()
    name = printable(folder.name.removesuffix(".job"))
    for _, facts in leases(folder):
        who = f"process {facts.get('pid')} on {facts.get('host')}"
        _say(f"{name}: being run by {who}, or it was killed; {len(journal.done)} tasks done")
        return
    report = folder / "report.json"
    if not report.exists():
        _say(f"{name}: {len(journal.done)} tasks done; no run of it has ended yet")
        return
    _tell(read_report(report), name, folder)


def _tell(report: JobReport, name: str, folder: Path) -> None:
    states = ("done", "up to date", "failed", "blocked", "waiting")
    counts = ", ".join(f"{n} {state}" for state in states if (n := report.count(state)))  # type: ignore[arg-type]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.ended))
    how = "stopped" if report.interrupted else "ended"
    _say(f"{name}: {counts}; the last run {how} {when}")
    for task in report.tasks:
        if task.state == "failed":
            log = f" (log: {printable(folder / task.log)})" if task.log else ""
            _say(f"  failed: {printable(task.name)}: {task.why}{log}")
    _say(f"  report: {printable(folder / 'report.html')}")


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the command's answer
