"""Outputs for a destination that only the other host sees: whole, allowed, without leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest
from msgspec.structs import replace

from encamp.errors import (
    BadDestination,
    MissingOutput,
    OutputConflict,
    ShippingFailed,
    UnsafeTarget,
    UnusableInput,
)
from encamp.storage.dead_owners import reclaim
from encamp.storage.disk.path_to_destination import NAMED
from encamp.storage.files_by_request import SpawnersFiles, TaskFiles, WritePiece
from encamp.storage.inputs.send_inputs import CHUNK, digest_of_piece
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import Output, as_outputs, bound
from encamp.storage.outputs.sees_destination import Beacons, reaches
from encamp.storage.outputs.send_outputs import (
    OutputPaths,
    Piece,
    Receiver,
    RemoteTarget,
    send_file,
)
from encamp.storage.outputs.stage import Staged, stage
from encamp.storage.shared_folders import MIRRORED, SharedPath

TOKEN, DEAD, NEW = "0123456789ab", "dead00000000", "beef00000000"


@dataclass
class Sea:
    """A channel whose other side has the shared root somewhere else."""

    files: TaskFiles
    roots: str
    pieces: list[Piece] = field(default_factory=list)

    def write(self, piece: Piece) -> OutputPaths:
        self.pieces.append(piece)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MIRRORED, self.roots)
            sent = self.files.answer(WritePiece(piece))
            assert isinstance(sent, OutputPaths)
            return sent


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
        return wanted, Sea(TaskFiles((), wanted), str(there))


def shipped(folder: Path, wanted: tuple[Output, ...], sea: Sea) -> list[Staged]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, "/no-such-folder")
        return stage(folder, wanted, Path("/none"), token="t", task="task", channel=sea)


def published(staged: list[Staged], there: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MIRRORED, str(there))
        deliver_one(staged)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_output_of_any_size_is_sent_whole(size: int, folder: Path, there: Path) -> None:
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
    sea.files.close()
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


def test_unpublished_pieces_are_removed(folder: Path, there: Path) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")
    shipped(folder, wanted, sea)
    sea.files.close()
    assert list((there / "out").iterdir()) == []
    with pytest.raises(UnusableInput, match="has ended"):
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
        sea.write(Piece(at, inner, "t", 0, b"", digest_of_piece(b""), 0o644, 0))
    assert list(there.iterdir()) == []


def test_pieces_for_another_folder_are_refused(there: Path) -> None:
    _, sea = planned(there, "a")
    with pytest.raises(BadDestination, match="not a destination"):
        sea.write(Piece(str(there), "a", "t", 0, b"", digest_of_piece(b""), 0o644, 0))
    with pytest.raises(UnsafeTarget):
        sea.write(Piece(str(there / "out"), "a", "/../t", 0, b"", digest_of_piece(b""), 0o6, True))
    assert list(there.iterdir()) == []


def test_bytes_that_were_changed_on_the_way_are_refused(folder: Path, there: Path) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")

    class Storm:
        def write(self, piece: Piece) -> OutputPaths:
            return sea.write(replace(piece, data=b"b"))

    at = wanted[0].at
    assert at is not None
    with pytest.raises(ShippingFailed, match="changed in transit"):
        send_file(Storm(), folder / "a", RemoteTarget(at, PurePosixPath("a")), "t")


def test_a_destination_that_cannot_be_written_is_named(folder: Path, there: Path) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")
    (there / "out").write_text("a file")
    with pytest.raises(BadDestination, match="out/a"):
        shipped(folder, wanted, sea)


def test_two_ways_to_one_folder_are_a_conflict_from_afar_too(folder: Path, there: Path) -> None:
    (there / "real").mkdir()
    (there / "alias").symlink_to("real")
    for name in ("a", "b"):
        (folder / name).write_text(name)
    pair = [Output("a", "../real", rename="x"), Output("b", "../alias", rename="x")]
    wanted, sea = planned(there, *pair)
    with pytest.raises(OutputConflict):
        shipped(folder, wanted, sea)


# Whether it has to be sent


def test_a_folder_with_a_beacon_is_reached_and_others_are_not(tmp_path: Path) -> None:
    beacons = Beacons(TOKEN)
    near, far = tmp_path / "near", tmp_path / "far"
    far.mkdir()
    beacons.put({near: NAMED})
    assert reaches(str(near), beacons.description)
    assert not reaches(str(near), Beacons(TOKEN).description)
    assert not reaches(str(far), beacons.description)
    beacons.close()
    assert not near.exists()


def test_a_folder_that_cannot_be_written_to_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Beacons(TOKEN)) as beacons:
        beacons.put({tmp_path: NAMED})
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert not reaches(str(tmp_path), beacons.description)


def test_outputs_go_each_by_the_way_that_its_own_folder_needs(
    folder: Path, there: Path, tmp_path: Path
) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    near = tmp_path / "near"
    wanted, sea = planned(there, Output("a", str(near)), "b")
    with closing(Beacons(TOKEN)) as beacons:
        beacons.put({near: NAMED})
        staged = stage(
            folder, wanted, token="t", task="task", channel=sea, beacon=beacons.description
        )
    assert [piece.inner for piece in sea.pieces] == ["b"]
    published(staged, there)
    assert (near / "a").read_text() == "a"
    assert (there / "out/b").read_text() == "b"


@pytest.fixture
def left_by_the_dead(tmp_path: Path) -> Path:
    """A destination with what a killed owner, one that lives and the user have put there."""
    there = tmp_path / "there"
    code = (
        "import os, signal; from pathlib import Path; "
        "from encamp.storage.outputs.sees_destination import Beacons; "
        "from encamp.storage.disk.path_to_destination import NAMED; "
        f"Beacons('{DEAD}').put({{Path({str(there)!r}): NAMED}}); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    (there / "deep").mkdir()
    for name in (
        f".encamp-{DEAD}-1.x-0",
        f"deep/.encamp-{DEAD}-2.x-0",
        ".encamp-alive-1.x-0",
        "result",
    ):
        (there / name).write_text(name)
    assert (there / f".encamp-{DEAD}-beacon").exists()
    return there


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_pieces_of_killed_owner_are_removed_by_next_owner(left_by_the_dead: Path) -> None:
    with closing(Beacons(NEW)) as beacons:
        beacons.put({left_by_the_dead: NAMED})
        assert files_in(left_by_the_dead) == {
            ".encamp-alive-1.x-0",
            "result",
            f".encamp-{NEW}-beacon",
        }
    assert files_in(left_by_the_dead) == {".encamp-alive-1.x-0", "result"}
    reclaim()  # the note of it


@pytest.mark.parametrize("text", [b"", b'{"owner":', b"{}"])
def test_a_beacon_that_cannot_be_read_may_be_of_somebody_who_is_just_writing_it(
    text: bytes, there: Path
) -> None:
    beacon, part = (there / f".encamp-{DEAD}{end}" for end in ("-beacon", "-1.x-0"))
    beacon.write_bytes(text)
    part.write_text("part")
    with closing(Beacons(NEW)) as beacons:
        beacons.put({there: NAMED})
    assert beacon.exists()
    assert part.exists()


def test_pieces_of_killed_owner_are_removed_by_clean(
    left_by_the_dead: Path,
) -> None:
    assert len(reclaim()) == 1
    assert files_in(left_by_the_dead) == {".encamp-alive-1.x-0", "result"}
    assert reclaim() == []


def test_a_part_that_cannot_be_removed_is_warned_of(
    folder: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a").write_text("a")
    wanted, sea = planned(there, "a")
    shipped(folder, wanted, sea)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(UserWarning, match="cannot remove"):
        sea.files.close()


def test_a_first_piece_is_never_written_over_something(there: Path) -> None:
    (there / "a").write_text("somebody's")
    (there / ".encamp-t").symlink_to("a")
    piece = Piece(str(there), "final", "t", 0, b"x", digest_of_piece(b"x"), 0o600, size=1)
    for _ in range(2):
        with pytest.raises(BadDestination, match="file exists"):
            Receiver({there: NAMED}).write(piece)
        assert (there / "a").read_text() == "somebody's"
        (there / ".encamp-t").write_text("another's")


def test_later_piece_follows_no_symlink_and_file_is_removed(there: Path) -> None:
    (there / "a").write_text("somebody's")
    receiver = Receiver({there: NAMED})
    first = Piece(str(there), "final", "t", 0, b"x", digest_of_piece(b"x"), 0o600, size=None)
    receiver.write(first)
    part = there / ".encamp-t"
    assert part.read_bytes() == b"x"
    part.unlink()
    part.symlink_to("a")
    with pytest.raises(BadDestination):
        receiver.write(replace(first, offset=1, size=2))
    assert (there / "a").read_text() == "somebody's"
    assert os.listdir(there) == ["a"]


def _piece(folder: str, data: bytes) -> Piece:
    return Piece(folder, "out/a.txt", TOKEN, 0, data, digest_of_piece(data), 0o644, len(data))


def test_errors_of_an_ended_tasks_transfers_name_the_file_and_not_its_contents(
    tmp_path: Path,
) -> None:
    files = TaskFiles((), ())
    files.stop()
    asking = SpawnersFiles(files.answer)
    folder = str(tmp_path)
    with pytest.raises(UnusableInput, match="ended") as written:
        asking.write(_piece(folder, b"some secret"))
    with pytest.raises(UnusableInput, match="ended") as read:
        asking.chunk(SharedPath(0, "data/in.txt"), 0)
    assert written.value.path == f"{folder}/out/a.txt"
    assert read.value.path == "data/in.txt"
