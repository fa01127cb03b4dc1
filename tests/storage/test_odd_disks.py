"""Disks that lack features: clear errors, and no result is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import encamp
from encamp.errors import BadDestination, BadJob
from encamp.storage.disk import unsupported_requests


@pytest.fixture(autouse=True)
def nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsupported_requests, "_logged", set())


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)


def publish() -> None:
    with encamp.sandbox(outputs={"*": "out"}) as folder:
        for name in "ab":
            (folder / name).write_text(name)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_destination_without_fsync_is_warned_about_once_and_complete(
    number: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fsync", number)
    with pytest.warns(UserWarning, match="cannot flush") as warned:
        publish()
    assert len(warned) == 1
    assert (here / "out/b").read_text() == "b"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_destination_without_permissions_is_named_once_and_gets_all(
    number: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fchmod", number)
    with pytest.warns(UserWarning, match="keeps no permissions") as warned:
        publish()
    assert len(warned) == 1
    assert (here / "out/b").read_text() == "b"


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_disk_that_is_broken_is_an_error(
    call: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, call, errno.EIO)
    with pytest.raises(BadDestination, match="input/output error"):
        publish()
    assert not (here / "out/a").exists()


GONE = """
import os, sys, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
"""


def in_no_folder(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", GONE + code]
    return subprocess.run(words, text=True, capture_output=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import encamp\nwith encamp.sandbox('a'): pass",
        "import encamp\nencamp.Job('job', to='out')",
        "import encamp\nencamp.Cluster('local', slots=1)",
        "import encamp\nencamp.Executor('local', slots=1, startup_dir='folder')",
    ],
)
def test_removed_current_folder_is_named(code: str) -> None:
    ended = in_no_folder(code)
    last = ended.stderr.strip().splitlines()[-1]
    assert BadJob.__name__ in last
    assert "the current folder: it has been removed; change to a different one" in last


@pytest.mark.parametrize("command", [("cache", "why", "a"), ("run", "j.toml"), ("run", "../s.py")])
def test_command_names_removed_current_folder(command: tuple[str, ...]) -> None:
    words = repr(["-m", "encamp", *command])[1:-1]
    code = f"os.execv(sys.executable, [sys.executable, {words}])"
    ended = in_no_folder(code)
    assert ended.returncode == 2
    assert ended.stderr.startswith("encamp: the current folder: it has been removed")
    assert len(ended.stderr.splitlines()) == 1
