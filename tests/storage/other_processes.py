"""Running Python in processes of its own: as somebody else, to be killed, many at once."""

from __future__ import annotations

import getpass  # noqa: F401 - who is no longer root may not be able to read Python's own files
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534
DEADLINE = 60.0


def start(code: str, *args: object, **options: object) -> subprocess.Popen[str]:
    """Start Python on ``code``, its output on pipes; ``args`` are in its ``sys.argv[1:]``."""
    command = [sys.executable, "-c", textwrap.dedent(code), *(str(arg) for arg in args)]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a good end and return the standard output."""
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, f"exit status {process.returncode}: {out}{err}"
    return out


def run(code: str, *args: object, **options: object) -> str:
    """Run Python on ``code`` to its good end and return the standard output."""
    return finish(start(code, *args, **options))


def unprivileged(function: Callable[[], object]) -> str:
    """What ``function`` returns or raises, as text, when an ordinary user calls it.

    Where this process is root, whom permissions do not bind, a fork of it becomes somebody else.
    """
    if os.geteuid() != 0:
        return _told(function)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-timeout has a thread
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.chdir("/")
            os.write(writer, _told(function).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as output:
        return output.read()


def _told(function: Callable[[], object]) -> str:
    try:
        return str(function())
    except Exception as exc:  # noqa: BLE001 - the test looks at what it is
        return f"{type(exc).__name__}: {exc}"


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that an ordinary user can reach and write to, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="encamp-test-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A disk of ``size`` bytes at folder ``at``; skips where mounting is not allowed."""
    at.mkdir()
    options = f"size={size},mode=0777"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def wait_until(true: Callable[[], object], what: str) -> None:
    """Poll until ``true`` holds; fails after a while."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.002)
