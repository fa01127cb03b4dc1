"""Outputs of a task's folder: what matches, where it goes, and that it is complete."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest
from other_processes import open_folder, small_disk, start, unprivileged

from encamp.attempt_facts import Published
from encamp.errors import (
    BadDestination,
    BadJob,
    DiskFull,
    MissingOutput,
    OutputConflict,
    UnsafeTarget,
)
from encamp.storage.disk.temporary_names import PART, discard_leftovers
from encamp.storage.local_storage import local_storage
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import Output, OutputMap, as_outputs, check_outputs
from encamp.storage.outputs.publish import digest_of
from encamp.storage.outputs.stage import stage, unstage
from encamp.storage.outputs.still_intact import intact
from encamp.storage.shared_folders import MIRRORED, local

RUN, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture
def folder(local_storage_base: Path) -> Path:
    """A task's folder, empty."""
    path = local_storage() / "task"
    path.mkdir()
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """The destination, not there yet."""
    return tmp_path / "results"


def write(base: Path, *names: str) -> None:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {os.fsencode(name)!r}")


def brought(spec: OutputMap, folder: Path, to: Path) -> list[str]:
    """Stage and publish; returns what is in the destination then."""
    wanted = as_outputs(spec)
    check_outputs(wanted, to)
    deliver_one(stage(folder, wanted, to, token="t", task="name"))
    return below(to)


def below(folder: Path) -> list[str]:
    paths = (Path(at, name) for at, _, names in os.walk(folder) for name in names)
    return sorted(str(path.relative_to(folder)) for path in paths)


def test_patterns_say_which_folder_files_go_to(folder: Path, to: Path) -> None:
    write(folder, "a.txt", "b.txt", "c.raw")
    assert brought({"*.txt": "texts", "c.raw": "."}, folder, to) == [
        "c.raw",
        "texts/a.txt",
        "texts/b.txt",
    ]
    assert (to / "texts/a.txt").read_text() == (folder / "a.txt").read_text()


def test_all_forms_of_a_map_mean_the_same() -> None:
    forms: list[OutputMap] = ["a", Output("a"), ["a"], [Output("a")], {"a": "."}]
    for spec in forms:
        assert as_outputs(spec) == (Output("a"),)


def test_a_folder_brings_back_its_tree(folder: Path, to: Path) -> None:
    write(folder, "tree/a", "tree/.hidden", "tree/x/y/b", "other")
    assert brought("tree", folder, to) == ["tree/.hidden", "tree/a", "tree/x/y/b"]


def test_two_stars_keep_the_folders_that_they_stand_for(folder: Path, to: Path) -> None:
    write(folder, "out/a.txt", "out/x/b.txt", "out/x/y/c.txt", "out/x/c.raw", "d.txt")
    assert brought({"out/**/*.txt": "."}, folder, to) == ["a.txt", "x/b.txt", "x/y/c.txt"]


@pytest.mark.parametrize("pattern", ["run*/**/*.txt", "run?/**/*.txt", "./run[12]/**"])
def test_two_stars_keep_folders_also_after_another_glob(
    pattern: str, folder: Path, to: Path
) -> None:
    write(folder, "run1/x/a.txt", "run2/y/b.txt", "run2/c.txt")
    assert brought(pattern, folder, to) == ["c.txt", "x/a.txt", "y/b.txt"]


def test_renaming_uses_parts_of_the_old_name(folder: Path, to: Path) -> None:
    write(folder, "a.txt", "tree/b")
    spec = [Output("*.txt", rename="{stem}-7{suffix}"), Output("tree", rename="tree-7")]
    assert brought(spec, folder, to) == ["a-7.txt", "tree-7/b"]


NAMES = ["a[1].txt", "with space", "new\nline", "-rf", "*", os.fsdecode(b"\xff\xfe"), "back\\slash"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_exists_is_taken_as_it_is(name: str, folder: Path, to: Path) -> None:
    write(folder, name, *(n for n in ("a1.txt", "whatever") if not fnmatch(n, name)))
    assert brought(name, folder, to) == [name]


def test_unusual_names_are_published_by_globs_and_in_trees(folder: Path, to: Path) -> None:
    write(folder, *(f"tree/{name}" for name in NAMES))
    assert brought({"tree/?*": "globbed", "tree": "."}, folder, to) == sorted(
        f"{top}/{name}" for top in ("globbed", "tree") for name in NAMES
    )


def test_an_output_that_was_not_made_is_an_error_unless_not_required(
    folder: Path, to: Path
) -> None:
    write(folder, "in.dat", "out.txt", "deep/other")
    with pytest.raises(MissingOutput) as caught:
        stage(folder, as_outputs("*.raw"), to, token="t", task="name", inputs=frozenset({"in.dat"}))
    assert set(caught.value.made) == {"deep/other", "out.txt"}
    assert brought(Output("*.raw", required=False), folder, to) == []


def test_a_missing_output_is_named_also_beside_special_files(folder: Path, to: Path) -> None:
    write(folder, "a")
    os.mkfifo(folder / "pipe")
    with pytest.raises(MissingOutput) as caught:
        brought("b", folder, to)
    assert caught.value.made == ("a",)


@pytest.mark.parametrize("pattern", [".", "./", "./."])
def test_the_folder_itself_is_an_output_only_under_another_name(
    pattern: str, folder: Path, to: Path
) -> None:
    with pytest.raises(BadJob, match=r"is the task's folder; write '\*\*' for everything in it"):
        check_outputs(as_outputs(pattern), to)
    write(folder, "a")
    assert brought(Output(pattern, rename="all"), folder, to) == ["all/a"]


@pytest.mark.parametrize("pattern", ["../x", "/etc/passwd", "a/../../x", "~/x"])
def test_a_pattern_that_leaves_the_folder_is_refused(pattern: str, to: Path) -> None:
    with pytest.raises(UnsafeTarget):
        check_outputs(as_outputs(pattern), to)


def test_two_outputs_with_one_name_are_refused_before_anything_runs(to: Path) -> None:
    with pytest.raises(OutputConflict) as caught:
        check_outputs(as_outputs({"a/x": "out", "b/x": "out"}), to)
    assert "a/x" in str(caught.value)
    assert "b/x" in str(caught.value)
    with pytest.raises(OutputConflict):
        check_outputs([Output("a"), Output("b", rename="a")], to)


def test_two_ways_to_one_folder_are_one_destination(to: Path) -> None:
    (to / "real").mkdir(parents=True)
    (to / "link").symlink_to("real")
    for other in ("link", "link/../real", "./real/"):
        with pytest.raises(OutputConflict):
            check_outputs(as_outputs([Output("a", "real"), Output("b/a", other)]), to)


def test_two_matches_with_one_name_are_refused_before_anything_is_published(
    folder: Path, to: Path
) -> None:
    write(folder, "x/a", "y/a", "z")
    with pytest.raises(OutputConflict):
        brought(["z", "*/a"], folder, to)
    assert below(to) == []


def test_file_of_two_patterns_is_published_once(folder: Path, to: Path) -> None:
    write(folder, "a.txt")
    assert brought(["a.txt", "*.txt"], folder, to) == ["a.txt"]


def test_existing_file_is_replaced(folder: Path, to: Path) -> None:
    write(folder, "a")
    to.mkdir()
    (to / "a").write_text("old")
    brought("a", folder, to)
    assert (to / "a").read_text() == (folder / "a").read_text()


@pytest.mark.parametrize("shared", [False, True])
def test_a_symlink_with_the_final_name_is_replaced_and_not_followed(
    shared: bool, folder: Path, to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shared:
        monkeypatch.setenv(MIRRORED, str(tmp_path))
    write(folder, "a")
    to.mkdir()
    (tmp_path / "precious").write_text("precious")
    (to / "a").symlink_to(tmp_path / "precious")
    brought("a", folder, to)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (to / "a").is_symlink()


def test_permissions_are_kept_and_owner_can_write(folder: Path, to: Path) -> None:
    for mode in (0o755, 0o640, 0o400, 0o6711):
        write(folder, "a")
        (folder / "a").chmod(mode)
        brought("a", folder, to)
        assert (to / "a").stat().st_mode & 0o7777 == mode & 0o777 | 0o200
        (folder / "a").unlink()


def test_published_files_have_size_digest_and_time(folder: Path, to: Path) -> None:
    write(folder, "a")
    (one,) = deliver_one(stage(folder, as_outputs("a"), to, token="t", task="name"))
    status = (to / "a").stat()
    assert one == Published(str(to / "a"), status.st_size, status.st_mtime_ns, digest_of(to / "a"))


def test_intact_differs_from_touched_changed_and_missing(folder: Path, to: Path) -> None:
    write(folder, "a")
    (one,) = deliver_one(stage(folder, as_outputs("a"), to, token="t", task="name"))
    content = (to / "a").read_bytes()
    assert intact(one)
    os.utime(to / "a", ns=(1, 1))
    assert intact(one), "the same bytes at another time"
    (to / "a").write_bytes(content.swapcase())
    assert not intact(one)
    (to / "a").write_bytes(content + b"x")
    assert not intact(one)
    (to / "a").unlink()
    assert not intact(one)


@pytest.mark.parametrize(("pattern", "why"), [("", "is empty"), ("a\0", "contains a null byte")])
def test_a_pattern_that_matches_nothing_ever_is_refused_at_once(pattern: str, why: str) -> None:
    with pytest.raises(BadJob, match=f"of an output: {why}"):
        as_outputs({pattern: "."})


@pytest.mark.parametrize("deep", [".", "deep/er"])
def test_a_destination_that_is_a_file_is_refused_by_name(deep: str, to: Path) -> None:
    to.write_text("x")
    with pytest.raises(BadDestination, match="not a folder") as caught:
        check_outputs([Output("a", deep)], to)
    assert str(to) in str(caught.value)


@pytest.mark.parametrize("inner", [".", "sandboxes/x", "new"])
def test_a_destination_in_the_local_storage_is_refused(inner: str, tmp_path: Path) -> None:
    with pytest.raises(BadDestination, match="local storage"):
        check_outputs([Output("a", inner)], local_storage())
    (tmp_path / "link").symlink_to(local_storage())
    with pytest.raises(BadDestination, match="local storage"):
        check_outputs([Output("a", inner)], tmp_path / "link")


@pytest.mark.parametrize("to", ["..", "../beside", "a/../../beside"])
def test_a_folder_beside_the_destination_is_refused_unless_it_is_written_whole(
    to: str, tmp_path: Path
) -> None:
    with pytest.raises(BadDestination, match="outside the destination"):
        check_outputs([Output("a", to)], tmp_path / "out")
    check_outputs([Output("a", str(tmp_path / "beside")), Output("b", "a/..")], tmp_path / "out")


def test_a_destination_that_is_not_writable_is_refused_before_anything_runs() -> None:
    with open_folder() as base:
        base.chmod(0o755)
        message = unprivileged(lambda: check_outputs([Output("a", "new/folder")], base))
        if os.geteuid() == 0:
            assert message.startswith("BadDestination")
            assert "cannot be written to" in message
        base.chmod(0o555)
        message = unprivileged(lambda: check_outputs([Output("a")], base))
        assert message.startswith("BadDestination")
        base.chmod(0o777)


def test_checking_makes_nothing(to: Path) -> None:
    check_outputs([Output("a", "new/folder"), Output("b/*")], to)
    assert not to.exists()


def test_a_folder_with_the_final_name_is_no_place_for_a_file(folder: Path, to: Path) -> None:
    write(folder, "a")
    write(to, "a/precious")
    staged = stage(folder, as_outputs("a"), to, token="t", task="name")
    with pytest.raises(BadDestination):
        deliver_one(staged)
    unstage(staged)
    assert below(to) == ["a/precious"]


def test_publish_refuses_tampered_or_missing_part(folder: Path, to: Path) -> None:
    write(folder, "a")
    for harm in (lambda p: p.write_text("short"), lambda p: p.unlink()):
        (one,) = stage(folder, as_outputs("a"), to, token="t", task="name")
        harm(local(one.part))
        with pytest.raises(BadDestination):
            deliver_one([one])
        assert not (to / "a").exists()
        unstage([one])
    assert below(to) == []


def test_staging_shows_nothing_under_a_final_name_and_discarding_takes_it_back(
    folder: Path, to: Path
) -> None:
    write(folder, "a", "tree/b")
    staged = stage(folder, as_outputs(["a", "tree"]), to, token="t", task="name")
    assert all(Path(name).name.startswith(PART) for name in below(to))
    assert len(below(to)) == 2
    assert {local(one.part).parent for one in staged} == {to, to / "tree"}
    unstage(staged)
    unstage(staged)
    assert below(to) == []


def test_two_stagings_of_one_attempt_do_not_meet(folder: Path, to: Path) -> None:
    """An executor may run an attempt twice; the second publishes whole files, too."""
    write(folder, "a")
    first = stage(folder, as_outputs("a"), to, token="t", task="name")
    second = stage(folder, as_outputs("a"), to, token="t", task="name")
    deliver_one(first)
    deliver_one(second)
    assert below(to) == ["a"]


def test_leftovers_of_one_run_go_and_those_of_others_stay(folder: Path, to: Path) -> None:
    write(folder, "a", "tree/b")
    stage(folder, as_outputs(["a", "tree"]), to, token=f"{RUN}.x", task="name")
    other = stage(folder, as_outputs("a"), to, token=f"{OTHER}.x", task="name")
    for token, owner in (("", os.geteuid()), (RUN[:4], os.geteuid()), (RUN, os.geteuid() + 1)):
        discard_leftovers([to], token, owner)
        assert len([path for path in to.rglob(".encamp-*") if path.is_file()]) == 3
    discard_leftovers([to, to / "gone"], RUN, os.geteuid())
    assert below(to) == [local(other[0].part).name]


def _fail_at(number: int, real: Callable[..., object], exc: BaseException) -> Callable[..., object]:
    calls = []

    def call(*args: object) -> object:
        calls.append(args)
        if len(calls) == number:
            raise exc
        return real(*args)

    return call


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), BadDestination),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_whatever_breaks_a_staging_no_part_is_left(
    exc: BaseException,
    expected: type[BaseException],
    at: int,
    folder: Path,
    to: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "abc":
        (folder / name).write_bytes(bytes(3 << 20))
    monkeypatch.setattr(os, "write", _fail_at(at, os.write, exc))
    with pytest.raises(expected):
        stage(folder, as_outputs("*"), to, token="t", task="name")
    assert below(to) == []


def test_an_unreadable_output_is_named_as_such(tmp_path: Path) -> None:
    with open_folder() as base:
        for name in ("task", "to"):
            (base / name).mkdir()
            (base / name).chmod(0o777)
        write(base, "task/a")
        (base / "task/a").chmod(0)

        def attempt() -> None:
            stage(base / "task", as_outputs("a"), base / "to", token="t", task="name")

        message = unprivileged(attempt)
        assert "task name: its output a cannot be published" in message
        assert "it cannot be read: permission denied" in message
        assert below(base / "to") == []


def test_a_destination_that_fills_up_is_named_with_need_and_free_space(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(bytes(100 << 10))
    (folder / "b").write_bytes(bytes(2 << 20))
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "precious").write_text("published before")
        with pytest.raises(DiskFull) as caught:
            brought("*", folder, disk)
        assert caught.value.path == str(disk / "b")
        assert caught.value.need == 2 << 20
        assert 0 < caught.value.free <= 1 << 20
        assert below(disk) == ["precious"]
        assert (disk / "precious").read_text() == "published before"


WATCHER = """
    import os, sys
    folder, size, names = sys.argv[1], int(sys.argv[2]), sys.argv[3].split()
    missing = set(names)
    print("watching", flush=True)
    while missing:
        for name in names:
            try:
                fd = os.open(f"{folder}/{name}", os.O_RDONLY)
            except FileNotFoundError:
                continue
            found = os.fstat(fd).st_size
            assert found == size, f"{name} was seen with {found} bytes"
            assert os.pread(fd, 1, size - 1) == b"x", f"{name} was seen with a hole"
            os.close(fd)
            missing.discard(name)
    print("all whole")
"""


def test_a_watcher_sees_only_whole_files(folder: Path, to: Path) -> None:
    names = ["a", "b", "c"]
    for name in names:
        (folder / name).write_bytes(b"x" * (32 << 20))
    to.mkdir()
    watcher = start(WATCHER, to, 32 << 20, " ".join(names))
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "watching\n"
    brought("*", folder, to)
    out, err = watcher.communicate(timeout=60)
    assert out == "all whole\n", err


@contextmanager
def _readers(path: Path, seen: set[bytes]) -> Iterator[None]:
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_reader_sees_the_old_or_the_new_file_and_nothing_between(folder: Path, to: Path) -> None:
    to.mkdir()
    contents = [bytes([number]) * 100_000 for number in range(20)]
    (to / "a").write_bytes(contents[0])
    seen: set[bytes] = set()
    with _readers(to / "a", seen):
        for content in contents:
            (folder / "a").write_bytes(content)
            brought("a", folder, to)
    assert seen <= set(contents)


def test_the_bytes_are_on_the_disk_before_the_name(
    folder: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "a")
    done: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        done.append(f"flush {Path(os.readlink(f'/proc/self/fd/{fd}')).name[:8]}")
        real_fsync(fd)

    def rename(*names: str, **folders: int) -> None:
        done.append("rename")
        real_rename(*names, **folders)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    brought("a", folder, to)
    assert done == [f"flush {PART}", "rename", "flush results"]


def test_staged_outputs_travel_by_shared_root(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that knows the share by another path stages for a controller here."""
    write(folder, "a")
    (tmp_path / "share").mkdir()
    (tmp_path / "mount").symlink_to("share")
    monkeypatch.setenv(MIRRORED, str(tmp_path / "mount"))
    staged = stage(folder, as_outputs("a"), tmp_path / "mount/out", token="t", task="name")
    (tmp_path / "share").rename(tmp_path / "moved")
    monkeypatch.setenv(MIRRORED, str(tmp_path / "moved"))
    (one,) = deliver_one(staged)
    assert one.path == str(tmp_path / "moved/out/a")
    assert (tmp_path / "moved/out/a").exists()
