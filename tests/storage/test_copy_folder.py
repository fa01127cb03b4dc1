"""A folder that is copied for inspection is as the task left it."""

from __future__ import annotations

import os
from pathlib import Path

from encamp.storage.disk.copy_folder import copy_as_it_is


def test_folders_keep_their_permissions_and_times(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "a/b").mkdir(parents=True)
    (old / "a/b/file").write_text("text")
    new.mkdir()
    for number, path in enumerate([old / "a/b/file", old / "a/b", old / "a"], start=1):
        path.chmod(0o500 + number)
        os.utime(path, ns=(number * 10**9, number * 2 * 10**9))
    copy_as_it_is(old, new)
    for name in ("a", "a/b", "a/b/file"):
        was, now = (old / name).lstat(), (new / name).lstat()
        assert now.st_mode == was.st_mode, name
        assert now.st_mtime_ns == was.st_mtime_ns, name
    for path in (old / "a", new / "a", old / "a/b", new / "a/b"):
        path.chmod(0o700)


def test_existing_files_are_merged(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, name in ((old, "other"), (new, "mine")):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / name).write_text(name)
        (folder / "a/both").write_text(name)
    copy_as_it_is(old, new)
    there = {path.name: path.read_text() for path in (new / "a").iterdir()}
    assert there == {"both": "mine", "mine": "mine", "other": "other"}
