"""Copies of inputs are complete, unchanged, and the task's own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from other_processes import open_folder, small_disk, unprivileged
from placed_inputs import mirrored, placed

import encamp
from encamp.errors import DiskFull, SourceChanged, UnusableInput
from encamp.storage.disk import copy_file as copy_module
from encamp.storage.disk.copy_file import copy_file
from encamp.storage.inputs.mirror import Mirror, Mode, as_mirrors, plan
from encamp.storage.local_storage import LOCAL, local_storage


def left() -> list[Path]:
    """Folders, and files of the cache, that are there though nothing is under way."""
    found = [path for path in local_storage().rglob("*") if "partial" in path.parts[:-1]]
    return found + sorted(local_storage().glob("sandboxes/*"))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o444, 0o400, 0o6755])
def test_permissions_and_times_are_kept_and_inputs_writable(
    mode: int, cached: bool, here: Path
) -> None:
    (here / "tree").mkdir()
    for path in (here / "file", here / "tree/file"):
        path.write_text("x")
        path.chmod(mode)
        os.utime(path, ns=(111, 1_600_000_000_123_456_789))
    items = [replace(item, cached=cached) for item in plan(as_mirrors(["file", "tree"]), here)]
    with placed(items) as sandbox:
        for path in (sandbox.folder / "file", sandbox.folder / "tree/file"):
            assert path.stat().st_mode & 0o7777 == (mode & 0o777) | 0o200 | 0o400
            assert path.stat().st_mtime_ns == 1_600_000_000_123_456_789
            path.write_text("mine")
    assert (here / "file").read_text() == "x"


@pytest.mark.parametrize("mode", ["auto", "copy"])
def test_writing_to_an_input_harms_neither_the_source_nor_the_next_task(
    mode: Mode, here: Path
) -> None:
    (here / "tree").mkdir()
    for number in range(40):
        (here / f"tree/{number}").write_text("original")
    for _ in range(2):
        with mirrored(Mirror("tree", mode=mode), here) as folder:
            for number in range(40):
                assert (folder / f"tree/{number}").read_text() == "original"
                (folder / f"tree/{number}").write_text("changed")
            (folder / "tree/0").unlink()
            (folder / "tree/1").chmod(0o777)
    assert {path.read_text() for path in (here / "tree").iterdir()} == {"original"}


def test_folders_of_a_tree_are_private_and_writable(here: Path) -> None:
    (here / "tree/deep").mkdir(parents=True)
    (here / "tree/deep").chmod(0o555)
    with mirrored("tree", here) as folder:
        assert (folder / "tree/deep").stat().st_mode & 0o777 == 0o700
    (here / "tree/deep").chmod(0o755)


def test_copied_bytes_are_counted(here: Path) -> None:
    (here / "tree").mkdir()
    for number in range(5):
        (here / f"tree/{number}").write_bytes(bytes(1000 * number))
    for brought in (10_000, 0):
        with placed(plan(as_mirrors(Mirror("tree", mode="copy")), here)) as sandbox:
            assert (sandbox.placed.files, sandbox.placed.bytes) == (5, 10_000)
            assert sandbox.brought == brought


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


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("change", [*CHANGES, remove])
def test_a_file_that_changed_since_the_plan_is_named(
    change: Callable[[Path], None], cached: bool, here: Path
) -> None:
    (here / "file").write_bytes(b"x" * 5000)
    items = [replace(item, cached=cached) for item in plan(as_mirrors("file"), here)]
    change(here / "file")
    with pytest.raises(SourceChanged) as caught, placed(items):
        pytest.fail("the file is another")
    assert caught.value.path == str(here / "file")
    assert left() == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["copy_file_range", "pread"])
def test_a_file_that_changes_during_the_copy_is_named_and_leaves_nothing(
    change: Callable[[Path], None],
    way: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = here / "file"
    source.write_bytes(b"x" * 5_000_000)
    _change_after_first_piece(way, lambda: change(source), monkeypatch)
    with pytest.raises(SourceChanged), mirrored("file", here):
        pytest.fail("the file is another")
    assert left() == []


@pytest.mark.parametrize("change", [*CHANGES, remove])
def test_a_file_in_a_tree_that_changed_since_the_plan_is_never_cached(
    change: Callable[[Path], None], here: Path
) -> None:
    (here / "tree").mkdir()
    (here / "tree/file").write_bytes(b"x" * 5000)
    items = plan(as_mirrors("tree"), here)
    change(here / "tree/file")
    with pytest.raises(SourceChanged), placed(items):
        pytest.fail("the tree is another")
    assert not list((local_storage() / "cache/trees").glob("*/*/tree"))
    with mirrored("tree", here) as folder:
        assert (folder / "tree/file").exists() == (change is not remove)


def _change_after_first_piece(
    way: str, change: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_CHUNK", 1 << 20)
    if way == "pread":
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
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_001)
    (here / "file").write_bytes(content)
    monkeypatch.setattr(os, "copy_file_range", _not_supported)
    with mirrored("file", here) as folder:
        assert (folder / "file").read_bytes() == content


def test_interrupted_copy_continues_in_pieces(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(3_000_001)
    (here / "file").write_bytes(content)
    monkeypatch.setattr(copy_module, "_CHUNK", 1 << 20)
    real = os.copy_file_range
    calls = []

    def once(*args: int) -> int:
        calls.append(args)
        return real(*args) if len(calls) == 1 else _not_supported()

    monkeypatch.setattr(os, "copy_file_range", once)
    with mirrored("file", here) as folder:
        assert (folder / "file").read_bytes() == content
    assert len(calls) == 2


@pytest.mark.parametrize("before", [0, 1 << 20], ids=["plain", "sparse"])
@pytest.mark.parametrize("way", ["copy_file_range", "write"])
def test_a_call_that_says_it_wrote_and_did_not_never_makes_a_wrong_copy(
    way: str, before: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (here / "file").open("wb") as file:
        file.seek(before)
        file.write(os.urandom(5000))
    if way == "write":
        monkeypatch.setattr(os, "copy_file_range", _not_supported)
    real, calls = getattr(os, way), []

    def lying(*args: object) -> object:
        calls.append(args)
        return 1 if len(calls) == 1 else real(*args)

    monkeypatch.setattr(os, way, lying)
    with pytest.raises(OSError, match="kept fewer bytes than were written"):
        copy_file(here / "file", here / "copy", None)
    assert not (here / "copy").exists()
    copy_file(here / "file", here / "copy", None)
    assert (here / "copy").read_bytes() == (here / "file").read_bytes()


def test_a_copy_that_lost_its_end_on_the_disk_is_none(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_bytes(b"0123456789")
    real = copy_module._copy_parts

    def lossy(reader: int, writer: int, status: os.stat_result) -> bool:
        copied = real(reader, writer, status)
        os.ftruncate(writer, 9)
        return copied

    monkeypatch.setattr(copy_module, "_copy_parts", lossy)
    with pytest.raises(OSError, match="kept fewer bytes"):
        copy_file(here / "a", here / "b", None)
    assert not (here / "b").exists()


def test_an_empty_file_is_an_input_like_any_other(here: Path) -> None:
    (here / "file").touch()
    with mirrored("file", here) as folder:
        assert (folder / "file").read_bytes() == b""


@pytest.mark.parametrize("become", ["fifo", "folder"])
def test_input_turned_special_is_refused_without_waiting(become: str, here: Path) -> None:
    (here / "file").touch()
    items = plan(as_mirrors("file"), here)
    (here / "file").unlink()
    os.mkfifo(here / "file") if become == "fifo" else (here / "file").mkdir()
    with pytest.raises(UnusableInput, match="no longer a regular file"), placed(items):
        pytest.fail("the file is none")


def test_a_tree_that_went_away_since_the_plan_is_named(here: Path) -> None:
    (here / "tree").mkdir()
    items = plan(as_mirrors("tree"), here)
    shutil.rmtree(here / "tree")
    with pytest.raises(UnusableInput) as caught, placed(items):
        pytest.fail("the tree is gone")
    assert caught.value.path == str(here / "tree")


def test_a_file_that_is_there_is_never_overwritten_by_a_copy(here: Path) -> None:
    (here / "source").write_text("new")
    (here / "target").write_text("old")
    with pytest.raises(FileExistsError):
        copy_file(here / "source", here / "target", None)
    assert (here / "target").read_text() == "old"


def test_an_unreadable_file_in_a_tree_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_folder() as base:
        (base / "tree").mkdir()
        (base / "tree/secret").write_text("x")
        (base / "tree/secret").chmod(0)
        (base / "local").mkdir()
        (base / "local").chmod(0o777)
        monkeypatch.setenv(LOCAL, str(base / "local"))

        def attempt() -> None:
            with mirrored("tree", base):
                pytest.fail("the file cannot be read")

        message = unprivileged(attempt)
        assert message.startswith("UnusableInput")
        assert str(base / "tree/secret") in message
        assert "permission denied" in message


def test_a_disk_that_fills_up_at_stage_in_is_named_with_need_and_free_space(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "big").write_bytes(bytes(8 << 20))
    with small_disk(tmp_path / "disk", "4m") as disk:
        monkeypatch.setenv(LOCAL, str(disk))
        for readonly in (False, True):
            mirror = Mirror("big", readonly=readonly)
            with pytest.raises(DiskFull) as caught, encamp.sandbox(mirror):
                pytest.fail("there was no room for the input")
            assert caught.value.path.startswith(str(disk))
            assert caught.value.need == 8 << 20
            assert 0 < caught.value.free < 4 << 20
            assert list(disk.glob("encamp-*/sandboxes/*")) == []
            assert [p for p in disk.rglob("*") if p.stat().st_size > 1 << 19] == []


def test_the_cache_makes_room_for_inputs_that_bypass_it(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shared", "own"):
        (here / name).write_bytes(os.urandom(5 << 20))
    (own,) = plan([Mirror("own")], here)
    with small_disk(tmp_path / "disk", "9m") as disk:
        monkeypatch.setenv(LOCAL, str(disk))
        with mirrored("shared", here):
            pass
        with placed([replace(own, cached=False)]) as sandbox:
            assert (sandbox.folder / "own").read_bytes() == (here / "own").read_bytes()


def test_a_disk_with_next_to_no_room_gives_no_other_error(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it runs out: the lock, the folders, the cache's index, the file, the outputs."""
    (here / "small").write_bytes(bytes(20_000))
    outcomes = []
    with small_disk(tmp_path / "disk", "4m") as disk:
        monkeypatch.setenv(LOCAL, str(disk))
        for left_over in (0, 4, 8, 16, 32, 64, 96, 128, 256, 2048):
            (disk / "ballast").write_bytes(bytes((4 << 20) - (left_over << 10)))
            try:
                with encamp.sandbox("small", {"small": str(here / "to")}):
                    outcomes.append("done")
            except DiskFull:
                outcomes.append("full")
            assert list(disk.glob("encamp-*/sandboxes/*")) == []
            (disk / "ballast").unlink()
            shutil.rmtree(local_storage())
    assert outcomes[0] == "full"
    assert outcomes[-1] == "done"
