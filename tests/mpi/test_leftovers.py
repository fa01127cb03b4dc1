"""Files of killed MPI jobs are removed only if they are new, this user's own and unused."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from encamp.engines.mpi import leftovers


def old(path: Path) -> None:
    before = time.time() - leftovers.ALL_START - 1
    os.utime(path, (before, before))


def of_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(path, 12345, -1)


@pytest.mark.parametrize("change", [old, of_another])
def test_only_new_files_of_this_user_count(change: Callable[[Path], None], tmp_path: Path) -> None:
    for name in ("beginning-1", "beginning-2", "other-3"):
        (tmp_path / name).touch()
    change(tmp_path / "beginning-2")
    assert list(leftovers._new_files(tmp_path / "beginning-")) == [str(tmp_path / "beginning-1")]


def test_a_segment_that_a_process_has_mapped_is_in_use() -> None:
    segment = Path(f"/dev/shm/mpich_shm_test_{os.getpid()}")
    try:
        with segment.open("w+b") as file:
            file.truncate(4096)
            with mmap.mmap(file.fileno(), 4096):
                assert str(segment) not in leftovers._unused_segments()
                assert leftovers.segments_here(of=f"test_{os.getpid()}") == [str(segment)]
        assert leftovers.segments_here(of=f"test_{os.getpid()}") == []
    finally:
        leftovers.remove([str(segment)])
    assert not segment.exists()


def test_files_and_folders_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "link").symlink_to("kept")
    names = ("folder", "link", "kept/file", "missing")
    leftovers.remove(str(tmp_path / name) for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
