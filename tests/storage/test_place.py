"""Copying inputs: whole, unchanged, and the task's own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from other_processes import open_folder, small_disk, unprivileged

import encamp
from encamp.errors import DiskFull, SourceChanged, UnusableInput
from encamp.storage import copy
from encamp.storage.copy import copy_file
from encamp.storage.mirror import as_mirrors, plan
from encamp.storage.place import Placed, place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "task folder"
    path.mkdir()
    return path


def test_permissions_and_times_come_along_and_inputs_become_writable(
    here: Path, folder: Path
) -> None:
    for mode in (0o644, 0o755, 0o444, 0o400, 0o6755):
        (here / "file").write_text("x")
        (here / "file").chmod(mode)
        os.utime(here / "file", ns=(111, 1_600_000_000_123_456_789))
        place(plan(as_mirrors("file"), here), folder, Placed())
        status = (folder / "file").stat()
        assert status.st_mode & 0o7777 == (mode & 0o777) | 0o200
        assert status.st_mtime_ns == 1_600_000_000_123_456_789
        (folder / "file").write_text("mine")
        (folder / "file").unlink()
        (here / "file").unlink()


def test_writing_to_a_copy_leaves_the_source_alone(here: Path, folder: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree/file").write_text("original")
    place(plan(as_mirrors("tree"), here), folder, Placed())
    (folder / "tree/file").write_text("changed")
    assert (here / "tree/file").read_text() == "original"


def test_folders_of_a_tree_are_private_and_writable(here: Path, folder: Path) -> None:
    (here / "tree/deep").mkdir(parents=True)
    (here / "tree/deep").chmod(0o555)
    place(plan(as_mirrors("tree"), here), folder, Placed())
    assert (folder / "tree/deep").stat().st_mode & 0o777 == 0o700
    (here / "tree/deep").chmod(0o755)


def test_what_was_copied_is_counted(here: Path, folder: Path) -> None:
    (here / "tree").mkdir()
    for number in range(5):
        (here / f"tree/{number}").write_bytes(bytes(1000 * number))
    placed = Placed()
    place(plan(as_mirrors("tree"), here), folder, placed)
    assert (placed.files, placed.bytes) == (5, 10_000)


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def rewrite(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"y" * before.st_size)
    os.utime(path, ns=(0, before.st_mtime_ns + 1))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def remove(path: Path) -> None:
    path.unlink()


CHANGES = [truncate, rewrite, grow]


@pytest.mark.parametrize("change", [*CHANGES, remove])
def test_a_file_that_changed_since_the_plan_is_named(
    change: Callable[[Path], None], here: Path, folder: Path
) -> None:
    (here / "file").write_bytes(b"x" * 5000)
    items = plan(as_mirrors("file"), here)
    change(here / "file")
    with pytest.raises(SourceChanged) as caught:
        place(items, folder, Placed())
    assert caught.value.path == str(here / "file")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["copy_file_range", "read"])
def test_a_file_that_changes_during_the_copy_is_named_and_leaves_nothing(
    change: Callable[[Path], None],
    way: str,
    here: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = here / "file"
    source.write_bytes(b"x" * 5_000_000)
    _change_after_first_piece(way, lambda: change(source), monkeypatch)
    with pytest.raises(SourceChanged):
        place(plan(as_mirrors("file"), here), folder, Placed())
    assert list(folder.iterdir()) == []


def _change_after_first_piece(
    way: str, change: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "_CHUNK", 1 << 20)
    if way == "read":
        monkeypatch.setattr(os, "copy_file_range", _not_supported)
    real = getattr(os, way)
    changed = []

    def piece(*args: object) -> object:
        result = real(*args)
        if not changed:
            changed.append(True)
            change()
        return result

    monkeypatch.setattr(os, way, piece)


def _not_supported(*args: object) -> int:
    raise OSError(errno.EOPNOTSUPP, "not here")


def test_without_the_disks_own_copy_files_arrive_all_the_same(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_001)
    (here / "file").write_bytes(content)
    monkeypatch.setattr(os, "copy_file_range", _not_supported)
    place(plan(as_mirrors("file"), here), folder, Placed())
    assert (folder / "file").read_bytes() == content


def test_a_copy_that_the_disk_breaks_off_goes_on_in_pieces(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_001)
    (here / "file").write_bytes(content)
    monkeypatch.setattr(copy, "_CHUNK", 1 << 20)
    real = os.copy_file_range
    calls = []

    def once(*args: int) -> int:
        calls.append(args)
        return real(*args) if len(calls) == 1 else _not_supported()

    monkeypatch.setattr(os, "copy_file_range", once)
    place(plan(as_mirrors("file"), here), folder, Placed())
    assert (folder / "file").read_bytes() == content
    assert len(calls) == 2


def test_an_empty_file_is_an_input_like_any_other(here: Path, folder: Path) -> None:
    (here / "file").touch()
    place(plan(as_mirrors("file"), here), folder, Placed())
    assert (folder / "file").read_bytes() == b""


@pytest.mark.parametrize("become", ["fifo", "folder"])
def test_what_became_special_since_the_plan_is_refused_without_waiting(
    become: str, here: Path, folder: Path
) -> None:
    (here / "file").touch()
    items = plan(as_mirrors("file"), here)
    (here / "file").unlink()
    os.mkfifo(here / "file") if become == "fifo" else (here / "file").mkdir()
    with pytest.raises(UnusableInput, match="no longer a regular file"):
        place(items, folder, Placed())


def test_a_tree_that_went_away_since_the_plan_is_named(here: Path, folder: Path) -> None:
    (here / "tree").mkdir()
    items = plan(as_mirrors("tree"), here)
    shutil.rmtree(here / "tree")
    with pytest.raises(UnusableInput) as caught:
        place(items, folder, Placed())
    assert caught.value.path == str(here / "tree")


def test_a_file_that_is_there_is_never_overwritten_by_a_copy(here: Path) -> None:
    (here / "source").write_text("new")
    (here / "target").write_text("old")
    with pytest.raises(FileExistsError):
        copy_file(here / "source", here / "target", None)
    assert (here / "target").read_text() == "old"


def test_an_unreadable_file_in_a_tree_is_named() -> None:
    with open_folder() as base:
        (base / "tree").mkdir()
        (base / "tree/secret").write_text("x")
        (base / "tree/secret").chmod(0)
        (base / "task").mkdir()
        (base / "task").chmod(0o777)

        def attempt() -> None:
            place(plan(as_mirrors("tree"), base), base / "task", Placed())

        said = unprivileged(attempt)
        assert said.startswith("UnusableInput")
        assert str(base / "tree/secret") in said
        assert "permission denied" in said


def test_a_disk_that_fills_up_at_stage_in_is_named_with_need_and_free_space(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "big").write_bytes(bytes(3 << 20))
    with small_disk(tmp_path / "disk", "1m") as disk:
        monkeypatch.setenv("PARALLEL_LOCAL_STORAGE", str(disk))
        for way in ("mirror", "shared"):
            with pytest.raises(DiskFull) as caught, encamp.sandbox(**{way: "big"}):  # type: ignore[arg-type]
                pytest.fail("there was no room for the input")
            assert caught.value.path.startswith(str(disk))
            assert caught.value.need == 3 << 20
            assert 0 < caught.value.free < 1 << 20
            assert list(disk.glob("encamp-*/sandboxes/*")) == []
            assert [p for p in disk.rglob("*") if p.stat().st_size > 1 << 19] == []
