"""Control characters from others never reach the terminal: exceptions, names, status, the page."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

import encamp
from encamp.attempt_facts import Span, Where
from encamp.cli.command_line import cli
from encamp.cli.exit_status import _print
from encamp.errors import StepFailed, reason, shown, text_of
from encamp.jobs.display.terminal import console_progress
from encamp.jobs.report.read_report import read_report
from encamp.jobs.report.write_report import write_report
from encamp.reports import AttemptReport, JobFailed, JobReport, TaskReport

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202e\x08"


def _evil_report(folder: Path) -> JobReport:
    where = Where(f"host{EVIL}", f"worker{EVIL}", 1)
    attempt = AttemptReport(1, where, 1.0, [Span("step", 1.0, 2.0)], error=f"error{EVIL}")
    failed = TaskReport(f"task{EVIL}", "failed", [attempt], why=f"why{EVIL}", log_tail=EVIL)
    return JobReport(
        name=f"job{EVIL}", destination=str(folder), folder=str(folder), started=1.0, ended=2.0,
        controller=EVIL, executor=EVIL, version="1", interrupted=False,
        tasks=[failed, TaskReport("b", "blocked", why=EVIL), TaskReport("c", "to do", why=EVIL)],
        warnings=[f"warning{EVIL}"],
    )  # fmt: skip


def _is_harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


@pytest.mark.parametrize(("quiet", "dry_run"), [(True, False), (False, True), (False, False)])
def test_the_console_shows_no_escape_sequences(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], quiet: bool, dry_run: bool
) -> None:
    report = _evil_report(tmp_path)
    progress = console_progress(quiet=quiet, dry_run=dry_run)
    progress.began(report.name, 3, 1)
    progress.retried(report.tasks[0].name, 1, f"error{EVIL}")
    for task in report.tasks:
        progress.ended(task)
    progress.finished(report)
    output = "".join(capfd.readouterr())
    assert "why" in output
    assert _is_harmless(output)


def test_status_and_show_show_no_escape_sequences(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = encamp.Job("sums", to="out")
    job.add("one", "true")
    job.run()
    folder = here / "out/sums.job"
    write_report(replace(_evil_report(folder), ended=1e300), folder)
    assert read_report(folder / "report.json").ended == 1e300
    cli.main(["status", "out"], standalone_mode=False)
    output = capsys.readouterr().out
    assert "at an unknown time" in output
    assert _is_harmless(output)
    cli.main(["show", "out", f"task{EVIL}"], standalone_mode=False)
    output = capsys.readouterr().out
    assert "failed (why" in output
    assert _is_harmless(output)


def test_errors_show_no_escape_sequences(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raised = ValueError(EVIL)
    assert _is_harmless(reason(raised))
    assert _is_harmless(text_of(StepFailed("a", "b", None, f"raised {reason(raised)}")))
    assert _is_harmless(str(JobFailed(_evil_report(tmp_path))))
    _print(EVIL)
    assert _is_harmless(capfd.readouterr().err)
    assert shown("two\nlines\t\N{SNOWMAN}") == "two\nlines\t\N{SNOWMAN}"


def test_the_page_runs_its_own_script_and_no_other(tmp_path: Path) -> None:
    page = write_report(_evil_report(tmp_path), tmp_path).read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    wanted = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{wanted}';" in policy[1]
    assert not re.search(r"\son[a-z]+=", page.partition("<script>")[0])
