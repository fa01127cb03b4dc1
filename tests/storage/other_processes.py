"""Running Python in processes of its own: as somebody else, to be killed, many at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
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


def run_unprivileged(code: str, *args: object, env: dict[str, str]) -> str:
    """`run`, as an ordinary user where this process is root, whom permissions do not bind."""
    who: dict[str, object] = {}
    if os.geteuid() == 0:
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        probe = subprocess.run(
            [sys.executable, "-c", "import encamp"], capture_output=True, cwd="/", check=False, **who
        )  # type: ignore[call-overload]
        if probe.returncode:
            pytest.skip("another user cannot run this Python")
    return run(code, *args, env={**os.environ, **env}, cwd="/", **who)


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
    """A disk of its own with ``size`` bytes at folder ``at``; skips where mounting is not allowed."""
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
