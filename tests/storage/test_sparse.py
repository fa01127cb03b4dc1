"""Sparse files stay sparse everywhere, and need only the space of their data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from other_processes import small_disk
from placed_inputs import mirrored

import encamp
from encamp.errors import DiskFull
from encamp.storage.cache.cache import HostCache
from encamp.storage.disk.copy_file import copy_file
from encamp.storage.disk.holes import allocated, data_parts
from encamp.storage.files_by_request import TaskFiles, WritePiece
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.inputs.send_inputs import Chunk, Sender, SentEntry, receive_file
from encamp.storage.local_storage import LOCAL
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import as_outputs, bound
from encamp.storage.outputs.send_outputs import OutputPaths, Piece
from encamp.storage.outputs.stage import stage
from encamp.storage.shared_folders import MIRRORED

MIB = 1 << 20
SIZE = 40 * MIB


def hole_first(path: Path) -> None:
    with path.open("wb") as file:
        file.seek(SIZE - 5)
        file.write(b"bytes")


def hole_last(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"bytes")
        file.truncate(SIZE)


def holes_between(path: Path) -> None:
    with path.open("wb") as file:
        for at in range(0, SIZE, SIZE // 4):
            file.seek(at + 7)
            file.write(os.urandom(MIB))
        file.truncate(SIZE + 3)


def nothing_but_a_hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SIZE)


KINDS = [hole_first, hole_last, holes_between, nothing_but_a_hole]


@pytest.fixture(params=KINDS)
def sparse(request: pytest.FixtureRequest, here: Path) -> Path:
    make: Callable[[Path], None] = request.param
    make(here / "sparse")
    if allocated((here / "sparse").stat()) > SIZE // 2:
        pytest.skip("this disk keeps no holes")
    return here / "sparse"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def same(copy: Path, sparse: Path) -> None:
    assert digest(copy) == digest(sparse)
    assert copy.stat().st_blocks <= sparse.stat().st_blocks + 64


def test_a_copy_has_the_same_holes(sparse: Path, here: Path) -> None:
    copy_file(sparse, here / "copy", None)
    same(here / "copy", sparse)


@pytest.mark.parametrize("options", [{"mode": "copy"}, {"readonly": True}])
def test_in_and_out_of_a_sandbox_holes_stay(
    options: dict[str, object], sparse: Path, here: Path
) -> None:
    mirror = Mirror("sparse", **options)  # type: ignore[arg-type]
    with encamp.sandbox(mirror, {"out": "to"}) as folder:
        same(folder / "sparse", sparse)
        (folder / "sparse").rename(folder / "out")
    same(here / "to/out", sparse)


class Here:
    """A channel to this process itself."""

    def __init__(self, *paths: Path) -> None:
        self.sender = Sender(paths)
        self.sent = 0

    def chunk(self, path: str, offset: int) -> Chunk:
        chunk = self.sender.chunk(path, offset)
        self.sent += len(chunk.data)
        return chunk

    def entries(self, path: str, exclude: tuple[str, ...]) -> list[SentEntry]:
        return self.sender.entries(path, exclude)


def test_holes_are_not_sent_to_another_host(sparse: Path, here: Path) -> None:
    channel, status = Here(sparse), sparse.stat()
    expected = status.st_size, status.st_mtime_ns
    receive_file(channel, str(sparse), here / "copy", expected, 0o644)  # type: ignore[arg-type]
    same(here / "copy", sparse)
    assert channel.sent <= status.st_blocks * 512


class Sea:
    """A channel whose other side has the shared root somewhere else."""

    def __init__(self, files: TaskFiles, roots: Path) -> None:
        self.files, self.roots = files, roots
        self.sent = 0

    def write(self, piece: Piece) -> OutputPaths:
        self.sent += len(piece.data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MIRRORED, str(self.roots))
            sent = self.files.answer(WritePiece(piece))
            assert isinstance(sent, OutputPaths)
            return sent


def test_nor_to_the_destinations_host(
    sparse: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRRORED, str(here / "there"))
    wanted = bound(as_outputs({"sparse": "out"}), here / "there")
    sea = Sea(TaskFiles((), wanted), here / "there")
    monkeypatch.setenv(MIRRORED, "/no-such-folder")
    staged = stage(sparse.parent, wanted, Path("/none"), token="t", task="task", channel=sea)
    monkeypatch.setenv(MIRRORED, str(here / "there"))
    (published,) = deliver_one(staged)
    same(here / "there/out/sparse", sparse)
    assert published.digest == digest(sparse)
    assert sea.sent <= sparse.stat().st_blocks * 512


def test_holes_of_sparse_file_need_no_space(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are larger than the disk, with a few bytes of data."""
    hole_last(here / "sparse")
    (here / "tree").mkdir()
    hole_first(here / "tree/sparse")
    (here / "full").write_bytes(bytes(10 * MIB))
    with small_disk(here / "disk", "8m") as disk:
        monkeypatch.setenv(LOCAL, str(disk))
        for mode in ("copy", "link"):
            with mirrored([Mirror("sparse", mode=mode), Mirror("tree", mode=mode)], here) as folder:  # type: ignore[arg-type]
                assert (folder / "sparse").stat().st_size == SIZE
        with HostCache() as cache:
            assert all(row.size < MIB for row in cache.rows())
        with pytest.raises(DiskFull), mirrored("full", here):
            pytest.fail("there is no room for that")


def test_a_plan_knows_how_much_room_is_needed(here: Path) -> None:
    hole_last(here / "sparse")
    (here / "plain").write_bytes(bytes(100_000))
    sizes = {item.target: (item.size, item.allocated) for item in plan([Mirror("*")], here)}
    assert sizes["plain"] == (100_000, 100_000)
    assert sizes["sparse"][0] == SIZE
    assert sizes["sparse"][1] < MIB


def test_bytes_that_were_written_behind_the_end_meanwhile_are_no_part(here: Path) -> None:
    (here / "file").write_bytes(b"0123456789")
    fd = os.open(here / "file", os.O_RDONLY)
    try:
        assert list(data_parts(fd, 4)) == [(0, 4)]
        assert list(data_parts(fd, 4, 1)) == [(1, 4)]
        assert list(data_parts(fd, 4, 4)) == []
    finally:
        os.close(fd)
