"""``encamp show``: everything about one task."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from console_command import encamp

from encamp.attempt_facts import Published
from encamp.cli.show import show_command
from encamp.errors import BadJob
from encamp.jobs.file.jobfile import load_job
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record, encoded
from encamp.reports import AttemptReport, TaskReport

JOB = """
to = "out"
[[task]]
name = "{c}"
foreach = { c = ["good", "bad"] }
env = { V = "{c} x" }
mirror = "shared.txt"
steps = ["echo hello {c}", { run = "echo gain 3", stdout = "{c}.txt" }, "test {c} != bad"]
values = "{c}.txt"
outputs = "{c}.txt"
"""


@pytest.fixture
def job(here: Path) -> Path:
    """A job file whose job has run, and has failed in part."""
    (here / "shared.txt").touch()
    (here / "job.toml").write_text(JOB)
    load_job(here / "job.toml").run(slots=2, check=False)
    return here / "job.toml"


def shown(place: Path | str, task: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_command(Path(place), task)
    text = capsys.readouterr().out
    return re.sub(r" +[\d.]+ m?s  ", " TIME ", text).splitlines()


def test_show_prints_values_outputs_and_log(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = re.compile(r" on \S+ \(\S+\):")
    when = re.compile(r"of \d{4}(-\d\d){2} \d\d(:\d\d){2}")
    output = shown("out", "good", capsys)
    lines = [when.sub("of WHEN", where.sub(":", line)) for line in output]
    assert lines == [
        "good: done (it has not been done before)",
        "  parameters: c = 'good'",
        "  values: gain = 3",
        "  attempt 1:",
        " TIME job prephase",
        " TIME task prephase",
        " TIME echo hello good",
        " TIME echo gain 3",
        " TIME test good '!=' bad",
        " TIME task postphase",
        f"  input: {job.parent}/shared.txt (0 B, of WHEN)",
        f"  output: {job.parent}/out/good.txt (7 B)",
        "  log: out/job.job/logs/good.1.log",
        "  | hello good",
    ]


def test_show_prints_failure_with_job_file_facts(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(job, "bad", capsys)
    assert re.match(r"bad: failed \(step .* ended with exit status 1\)$", lines[0])
    assert "  folder: removed; --keep failed keeps it in the next run" in lines
    at = lines.index("  step: echo gain 3 > bad.txt")
    assert lines[at - 2 : at + 2] == [
        "  step: echo hello bad",
        "    env: V=bad x",
        "  step: echo gain 3 > bad.txt",
        "    env: V=bad x",
    ]
    assert "  mirror: shared.txt" in lines
    assert lines[-1] == "  | hello bad"


def test_a_task_that_the_last_run_was_not_for_is_found_in_the_journal(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_job(job).run(slots=1, only="bad", check=False)
    assert shown("out/job.job", "good", capsys)[0].startswith("good: done")
    job.write_text(JOB.replace('"good"', '"good", "new"'))
    lines = shown(job, "new", capsys)
    assert lines[:2] == ["new: has not run yet", "  step: echo hello new"]


def written(*records: Record, to: str = "out/job.job") -> None:
    """What a run that was killed has written after the last report."""
    with Path(to, "journal.jsonl").open("ab") as file:
        file.writelines(encoded(record) + b"\n" for record in records)


def test_records_of_killed_run_precede_older_report(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = TaskReport("good", "failed", why="it was late")
    later = time.time() + 1
    written(Record("submitted", "good", later, 1), Record("submitted", "bad", later, 2))
    killed = "good: waiting (its run was killed before attempt 1 ended)"
    assert shown("out", "good", capsys)[0] == killed
    assert shown(job, "bad", capsys)[0].startswith(
        "bad: waiting (its run was killed before attempt 2 "
    )
    with Journal(Path("out/job.job")).writing():
        pass  # the next run writes the journal anew, and is killed as well
    assert shown("out", "good", capsys)[0] == killed
    written(Record("failed", "good", later, report=failure), Record("failed", "new", later))
    assert shown(job, "good", capsys)[0] == "good: failed (it was late)"
    assert shown("out", "new", capsys)[0] == "new: failed (the journal has no reason for it)"
    with Journal(Path("out/job.job")).writing():
        pass  # the next run writes the journal anew
    assert shown("out", "good", capsys)[0] == "good: failed (it was late)"
    load_job(job).run(slots=1, only="good")
    assert shown("out", "good", capsys)[0].startswith("good: done")


def test_show_prints_last_attempts_and_outputs_with_count(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [Published(f"/out/{number}", number, 0, "00") for number in range(1, 24)]
    attempts = [AttemptReport(number, None, 0.0) for number in range(1, 23)]
    report = TaskReport(
        "many", "failed", attempts=attempts, outputs=outputs[:20], rescued=outputs[20:]
    )
    written(Record("failed", "many", time.time() + 1, report=report))
    lines = shown("out", "many", capsys)
    assert [line for line in lines if "attempt" in line] == [
        "  and 2 earlier attempts",
        *(f"  attempt {number}:" for number in range(3, 23)),
    ]
    assert [line for line in lines if "output" in line] == [
        *(f"  output: /out/{number} ({number} B)" for number in range(4, 24)),
        "  and 3 more outputs",
    ]


def test_task_in_several_jobs_is_shown_with_job_names(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out/other.job").mkdir(mode=0o700)
    Path("out/other.job/journal.jsonl").touch(mode=0o600)
    written(Record("failed", "good", 1.0, report=TaskReport("good", "failed")), to="out/other.job")
    heads = [line for line in shown("out", "good", capsys) if not line.startswith(" ")]
    assert heads == [
        "good of the job job: done (it has not been done before)",
        "good of the job other: failed",
    ]


def test_a_job_whose_report_is_broken_hides_no_task_of_another(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("out/job.job", "out/a.job")
    Path("out/a.job/report.json").write_text("")
    lines = shown("out", "good", capsys)
    assert lines[0].startswith("good of the job job: done")
    assert lines[-1].startswith("warning: out/a.job/report.json: is not a report of a run")


def test_a_task_that_is_not_there_is_told(job: Path) -> None:
    with pytest.raises(BadJob, match="called 'god'; did you mean 'good'"):
        show_command(Path("out"), "god")
    with pytest.raises(BadJob, match="its tasks are good, bad"):
        show_command(job, "x")
    encamp("show", "nowhere", "x").check_refused("nowhere: there is no such folder")
