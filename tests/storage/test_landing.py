"""Outputs for a destination that only the other host sees: whole, only where allowed, no rests."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import pytest

from encamp.errors import BadDestination, MissingOutput, ShippingFailed, UnsafeTarget
from encamp.storage.landing import Far, Landed, Piece, Receiver, send_file
from encamp.storage.outputs import Output, Staged, as_outputs, bound, folders_of, stage
from encamp.storage.publish import publish
from encamp.storage.roots import MIRRORED
from encamp.storage.ship import CHUNK, digest_of_piece


@dataclass
class Sea:
    """A channel whose other side has the shared root somewhere else."""

    receiver: Receiver
    roots: str
    pieces: list[Piece] = field(default_factory=list)

    def land(self, piece: Piece) -> Landed:
        self.pieces.append(piece)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MIRRORED, self.roots)
            return self.receiver.land(piece)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The shared root of the destination's host; this one has another by that number."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task").mkdir()
    return tmp_path / "task"


def planned(there: Path, *outputs: Output | str) -> tuple[tuple[Output, ...], Sea]:
    """Outputs as the other host sends them with a task, and the way back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, str(there))
        wanted = bound(as_outputs(outputs), there / "out")
        return wanted, Sea(Receiver(folders_of(wanted)), str(there))


def shipped(folder: Path, wanted: tuple[Output, ...], sea: Sea) -> list[Staged]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, "/no-such-folder")
        return stage(folder, wanted, Path("/none"), token="t", task="task", channel=sea)


def published(staged: list[Staged], there: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, str(there))
        publish(staged)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_an_output_of_any_size_comes_over_whole(size: int, folder: Path, there: Path) -> None:
    content = os.urandom(size)
    (folder / "a").write_bytes(content)
    (folder / "a").chmod(0o755)
    wanted, sea = planned(there, "a")
    staged = shipped(folder, wanted, sea)
    assert len(sea.pieces) == max(1, -(-size // CHUNK))
    assert not (there / "out/a").exists()
    published(staged, there)
    assert (there / "out/a").read_bytes() == content
    assert (there / "out/a").stat().st_mode & 0o777 == 0o755
    sea.receiver.discard()
    assert [path.name for path in (there / "out").iterdir()] == ["a"]


def test_trees_and_names_and_other_folders_keep_their_places(folder: Path, there: Path) -> None:
    (folder / "tree/deep").mkdir(parents=True)
    for name in ("tree/deep/x", "tree/y", "log.txt"):
        (folder / name).write_text(name)
    (there / "else").mkdir()
    log = Output("log.txt", str(there / "else"), rename="{stem}-1{suffix}")
    wanted, sea = planned(there, "tree", log)
    published(shipped(folder, wanted, sea), there)
    assert (there / "out/tree/deep/x").read_text() == "tree/deep/x"
    assert (there / "out/tree/y").read_text() == "tree/y"
    assert (there / "else/log-1.txt").read_text() == "log.txt"


def test_what_is_not_published_goes(folder: Path, there: Path) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")
    shipped(folder, wanted, sea)
    sea.receiver.discard()
    assert list((there / "out").iterdir()) == []
    with pytest.raises(BadDestination, match="has ended"):
        shipped(folder, wanted, sea)
    assert list((there / "out").iterdir()) == []


def test_a_missing_output_sends_nothing(folder: Path, there: Path) -> None:
    wanted, sea = planned(there, "a")
    with pytest.raises(MissingOutput):
        shipped(folder, wanted, sea)
    assert sea.pieces == []


@pytest.mark.parametrize("inner", ["../a", "/a", "x/../../a", "", "."])
def test_pieces_cannot_leave_their_folder(inner: str, there: Path) -> None:
    wanted, sea = planned(there, "a")
    at = wanted[0].at
    assert at is not None
    with pytest.raises(UnsafeTarget):
        sea.land(Piece(at, inner, "t", 0, b"", digest_of_piece(b""), 0o644, True))
    assert list(there.iterdir()) == []


def test_pieces_for_another_folder_are_refused(there: Path) -> None:
    _, sea = planned(there, "a")
    with pytest.raises(BadDestination, match="no destination"):
        sea.land(Piece(str(there), "a", "t", 0, b"", digest_of_piece(b""), 0o644, True))
    with pytest.raises(UnsafeTarget):
        sea.land(Piece(str(there / "out"), "a", "/../t", 0, b"", digest_of_piece(b""), 0o6, True))
    assert list(there.iterdir()) == []


def test_bytes_that_were_changed_on_the_way_are_refused(folder: Path, there: Path) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")

    class Storm:
        def land(self, piece: Piece) -> Landed:
            return sea.land(replace(piece, data=b"b"))

    at = wanted[0].at
    assert at is not None
    with pytest.raises(ShippingFailed, match="changed on the way"):
        send_file(Storm(), folder / "a", Far(at, PurePosixPath("a")), "t")


def test_a_destination_that_cannot_be_written_is_named(folder: Path, there: Path) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")
    (there / "out").write_text("a file")
    with pytest.raises(BadDestination, match="out/a"):
        shipped(folder, wanted, sea)
