"""A run in which nothing had to run keeps the last report and the right status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripted import GOOD, Scripted

import encamp
from encamp.cli.status import status_command
from encamp.errors import StepFailed
from encamp.jobs.report.keep_report import keep_report
from encamp.jobs.report.read_report import read_report
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.trusted_files import TrustedFolder

FOLDER = Path("out/job.job")
FILES = ("report.html", "report.json", "trace.json")
BAD = Outcome(error=StepFailed("b", "step", 1, "ended"))


def _run(*tasks: str, b: Outcome = GOOD) -> encamp.JobReport:
    job = encamp.Job("job", to="out")
    for name in tasks:
        job.add(name, "true")
    return job.run(Scripted({"b": [b]}), check=False)


def _report() -> list[bytes]:
    return [(FOLDER / name).read_bytes() for name in FILES]


def test_the_report_stays_until_something_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("a", "b")
    before = _report()
    again = _run("a", "b")
    assert again.count("up to date") == 2
    assert _report() == before
    status_command(Path("out"))
    output = capsys.readouterr().out
    assert output.startswith("job: 2 up to date; the last run ended ")
    assert "no task had to run" in output
    _run("a", "b", "c")
    assert read_report(FOLDER / "report.json").count("done") == 1
    status_command(Path("out"))
    assert "no task had to run" not in capsys.readouterr().out


def test_failure_of_removed_task_is_not_reported(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("a", "b", b=BAD)
    _run("a")
    status_command(Path("out"))
    assert "failed" not in capsys.readouterr().out
    assert read_report(FOLDER / "report.json").count("failed") == 1
    _run("a", "b", b=BAD)
    status_command(Path("out"))
    assert "failed: b" in capsys.readouterr().out


@pytest.mark.parametrize("lost", FILES[:2])
def test_a_report_that_is_not_there_is_written(here: Path, lost: str) -> None:
    _run("a")
    (FOLDER / lost).unlink()
    _run("a")
    assert read_report(FOLDER / "report.json").count("up to date") == 1
    assert (FOLDER / "report.html").exists()


def _keep(report: JobReport, folder: Path) -> None:
    with TrustedFolder(folder).opened() as files:
        keep_report(report, files)


@pytest.mark.parametrize("most", [0, 60, 1 << 20])
def test_the_warnings_of_a_report_are_found_at_its_end_or_anywhere(
    most: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encamp.jobs.report.keep_report._MOST_AT_END", most)
    odd = ['a "warnings": [', 'b\n  "warnings": [']
    tasks = [TaskReport("t", "up to date", log_tail=odd[1])]
    report = JobReport("job", "/out", "/o", 1.0, 2.0, "", "", "", False, tasks, odd)
    _keep(report, here)
    before = (here / "report.json").stat().st_ino
    _keep(report, here)
    assert (here / "report.json").stat().st_ino == before
    _keep(replace(report, warnings=odd[1:]), here)
    assert read_report(here / "report.json").warnings == odd[1:]
    text = (here / "report.json").read_bytes()
    (here / "report.json").write_bytes(text[:-3])
    _keep(report, here)
    assert read_report(here / "report.json") == report


def test_the_manifest_is_written_only_if_it_changed(here: Path) -> None:
    def run(*names: str) -> tuple[int, int]:
        job = encamp.Job("job", to="out")
        for name in names:
            job.add(
                name, encamp.command(f"echo > {name}.txt", shell=True), outputs={f"{name}.txt": "."}
            )
        job.run()
        status = manifest.stat()
        return status.st_ino, status.st_mtime_ns  # a new file may get the old one's number

    manifest = FOLDER / "MANIFEST"
    first = run("a", "b")
    listed = manifest.read_bytes()
    assert listed.count(b"\n") == 2
    assert run("a", "b") == first
    for damaged in (listed[:-1], listed + b"x", listed.replace(b"a.txt", b"c.txt")):
        manifest.write_bytes(damaged)
        run("a", "b")
        assert manifest.read_bytes() == listed
    assert run("a", "b", "c") != first
    assert manifest.read_bytes().count(b"\n") == 3
