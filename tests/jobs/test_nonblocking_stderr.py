"""A display never ends a run, even if it cannot write or its output is not read."""

from __future__ import annotations

import errno
import io
import logging
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import encamp
from encamp.errors import BadJob
from encamp.jobs.display import nonblocking_stderr
from encamp.jobs.display.nonblocking_stderr import Screen
from encamp.jobs.progress_interface import Silent
from encamp.reports import TaskReport


def _written(fd: int) -> str:
    """All that can be read from a descriptor before its end."""
    text = b""
    with suppress(OSError):  # a terminal whose other end is closed
        while piece := os.read(fd, 1 << 16):
            text += piece
    return text.decode()


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_unread_output_is_buffered_then_dropped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonblocking_stderr, "_MOST_WAITING", 1 << 16)
    monkeypatch.setattr(nonblocking_stderr, "_PATIENCE", 0.01)
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    with os.fdopen(writer, "w") as stream:
        shown = Screen(stream)
        for _ in range(5000):
            shown.write("x" * 99 + "\n")
        shown.drain()  # gives up
        os.set_blocking(reader, False)
        early = b""
        for _ in range(1000):
            try:
                early += os.read(reader, 1 << 16)
            except BlockingIOError:
                shown.write("")
        os.set_blocking(reader, True)
        shown.write("the last line\n")
        shown.drain()
        del shown
    lines = (early.decode() + _written(reader)).splitlines()
    os.close(reader)
    assert 600 < lines.count("x" * 99) < 5000
    assert lines[-3:] == [
        "",
        "… some lines were left out because they were not read",
        ("the last line"),
    ]


@pytest.mark.parametrize("how", ["full", "reader gone", "terminal gone", "closed", "none"])
def test_unwritable_output_is_dropped(how: str) -> None:
    reader, writer = pty.openpty() if how == "terminal gone" else os.pipe()
    if how == "full":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    stream = os.fdopen(writer, "w")
    shown = Screen(stream)
    if how == "closed":
        stream.close()
    if how != "none":
        os.close(reader)
    shown = Screen(None) if how == "none" else shown
    for _ in range(3):
        assert shown.write("line\n") == 5
    shown.drain()
    stream.close()
    if how == "none":
        os.close(reader)


def test_stream_without_file_descriptor_is_written_to() -> None:
    text = io.StringIO()
    Screen(text).write("line\n")
    assert text.getvalue() == "line\n"


_SCRIPT = """
import encamp
job = encamp.Job("job", to="out")
for number in range(3):
    job.add(str(number), "true")
job.run()
"""
_NOISY = _SCRIPT.replace("range(3)", "range(40)").replace(
    "str(number)", '"long" * 49 + str(number)'
)


@pytest.mark.parametrize("how", ["full", "reader gone", "terminal gone", "terminal stopped"])
def test_a_job_ends_as_it_does_whatever_its_display_can_write(here: Path, how: str) -> None:
    Path("job.py").write_text(_NOISY if how == "terminal stopped" else _SCRIPT)
    reader, writer = pty.openpty() if how.startswith("terminal") else os.pipe()
    if how.endswith("gone"):
        os.close(reader)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "encamp", "run", "job.py"],
            stderr=full if how == "full" else writer,
            stdout=subprocess.DEVNULL,
            check=False,
            timeout=120,
        )
    os.close(writer)
    if not how.endswith("gone"):
        os.close(reader)
    assert ended.returncode == 0
    assert '"interrupted": false' in Path("out/job.job/report.json").read_text()


class _Raises(Silent):
    told = 0

    def ended(self, task: TaskReport) -> None:
        self.told += 1
        raise OSError(errno.EIO, "no such terminal")


def test_progress_error_is_logged_once_and_run_continues(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = encamp.Job("job", to="out")
    for name in "abc":
        job.add(name, "true")
    progress = _Raises()
    with caplog.at_level(logging.ERROR, "encamp"):
        assert job.run(slots=1, progress=progress).ok
    assert progress.told == 1
    [record] = caplog.records
    assert "the run continues without it" in record.getMessage()
    assert record.exc_info is not None


def test_invalid_progress_object_is_refused_before_run(here: Path) -> None:
    job = encamp.Job("job", to="out")
    job.add("a", "true")
    with pytest.raises(BadJob, match="it has no method 'began'"):
        job.run(progress=3)  # type: ignore[arg-type]
    assert not Path("out").exists()


_BEHIND = """
import os, pty, sys, termios, time
from encamp.jobs.display import nonblocking_stderr
nonblocking_stderr._PATIENCE = 0.1
pid, terminal = pty.fork()
if pid == 0:  # a session of its own, as of a shell
    settings = termios.tcgetattr(2)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(2, termios.TCSANOW, settings)
    job = os.fork()
    if job == 0:  # in the background
        os.setpgid(0, 0)
        shown = nonblocking_stderr.Screen(sys.stderr)
        shown.write("line")
        shown.drain()
        os._exit(7)
    _, status = os.waitpid(job, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(job, 9)
        os._exit(1)
    os._exit(os.waitstatus_to_exitcode(status))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_display_in_the_background_of_a_terminal_does_not_stop_its_process() -> None:
    assert subprocess.run([sys.executable, "-c", _BEHIND], check=False, timeout=60).returncode == 7
