"""The exit status of a command is that of its end, and its message fits on one line."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import click
import pytest

from encamp.cli.command_line import cli
from encamp.cli.exit_status import exit_status
from encamp.errors import (
    BadDestination,
    BadJob,
    DiskFull,
    EngineFailed,
    JobBusy,
    NoMatch,
    TaskLost,
    UnusableInput,
)
from encamp.reports import JobFailed, JobReport
from encamp.storage.exit_on_signal import Terminated

REPORT = JobReport("job", "out", "out/job.job", 0.0, 0.0, "", "", "", False, [])

ENDS: dict[str, tuple[Any, int]] = {
    "well": (None, 0),
    "a number": (3, 3),
    "zero": (0, 0),
    "exit 0": (SystemExit(0), 0),
    "exit without a number": (SystemExit(None), 0),
    "exit 7": (SystemExit(7), 7),
    "exit with words": (SystemExit("words"), 1),
    "wrong command line": (click.UsageError("wrong"), 2),
    "wrong value": (click.BadParameter("wrong"), 2),
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "abort": (click.Abort(), 130),
    "failed tasks": (JobFailed(REPORT), 1),
    "bad job": (BadJob("job", "is none"), 2),
    "no match": (NoMatch("x", "/"), 2),
    "input": (UnusableInput("x", "is gone"), 2),
    "destination": (BadDestination("x", "is none"), 2),
    "busy": (JobBusy("x", "process 1"), 2),
    "disk full": (DiskFull("/x", 2, 1), 1),
    "engine": (EngineFailed("mpi", "it broke"), 1),
    "task": (TaskLost("a", "here", 1), 1),
    "SIGTERM": (Terminated(signal.SIGTERM), 143),
    "SIGHUP": (Terminated(signal.SIGHUP), 129),
    "nobody reads": (BrokenPipeError(32, "Broken pipe"), 1),
    "disk error": (OSError(5, "Input/output error", "/x"), 1),
}


SILENT = {
    *("well", "a number", "zero", "exit 0", "exit without a number", "exit 7"),
    *("failed tasks", "nobody reads"),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_ending_has_its_exit_status_and_no_traceback(
    how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    end, status = ENDS[how]

    def main(**_: Any) -> Any:
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr(cli, "main", main)
    assert exit_status(cli) == status
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    silent = how in ("well", "a number", "zero", "failed tasks", "nobody reads") or how.startswith(
        "exit "
    )
    assert (captured.err.strip() == "") == (silent and how != "exit with words")


_STOPPED_WHILE_LOADING = """
import os, signal, sys

class Loading:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Loading())
from encamp.cli.start import main
main()
"""


def test_ctrl_c_while_the_command_is_loaded_gives_no_traceback() -> None:
    words = [sys.executable, "-c", _STOPPED_WHILE_LOADING]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
