"""Folders of tasks are removed, however deep or protected; errors name files that stay."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_processes import open_folder, small_disk
from placed_inputs import mirrored

import encamp
from encamp.errors import UnusableInput, UnusableOutput
from encamp.storage.dead_owners import reclaim
from encamp.storage.disk import overlay, removal
from encamp.storage.disk.removal import NotRemoved, remove_tree, removed_at_once
from encamp.storage.disk.temporary_names import PART, discard_leftovers
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.inputs.tree import copy_tree, link_tree, tree_state
from encamp.storage.kept_folders import kept
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.outputs.patterns import as_outputs
from encamp.storage.outputs.publishable import entries_below
from encamp.storage.outputs.stage import stage
from encamp.storage.owned_folder import OwnedFolder, sandboxes

MEMORY = "/dev/shm"


def nest(folder: Path, depth: int, name: str = "d") -> None:
    """Make folders one in the other, some with a file; deeper than any path may be long."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(depth):
        os.mkdir(name, dir_fd=fd)
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is such a disk: thousands of folders take long elsewhere."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def doomed(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOCAL, str(memory))
    folder = local_storage() / "doomed"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("depth", [1_500, 20_000])
def test_folders_go_however_deep_they_are(depth: int, doomed: Path) -> None:
    nest(doomed, depth)
    descriptors = len(os.listdir("/proc/self/fd"))
    remove_tree(doomed, local_storage())
    assert not doomed.exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_few_descriptors_do_for_any_depth(doomed: Path) -> None:
    nest(doomed, 300)
    code = f"""
import resource
from pathlib import Path
from encamp.storage.disk.removal import remove_tree
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
remove_tree(Path({str(doomed)!r}), Path({str(doomed.parent)!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not doomed.exists()


DEEP = """
    import os
    for _ in range(1_500):
        os.mkdir("d")
        os.chdir("d")
"""


@pytest.mark.parametrize("mode", ["copy", "overlay"])
def test_task_leaving_deep_folders_affects_no_other(mode: str, here: Path, doomed: Path) -> None:
    (here / "a").write_bytes(os.urandom(1 << 20))
    job = encamp.Job("job", to="out", mirror=Mirror("a", mode=mode))  # type: ignore[arg-type]
    job.add("deep", encamp.call(make_deep))
    job.add("after", encamp.command("touch list"), after="deep", outputs={"*": "."})
    report = job.run(slots=1, check=False)
    assert report["deep"].state == "done"
    assert list(sandboxes(local_storage()).iterdir()) == []


def make_deep() -> None:
    nest(Path(), 1_500)


def test_deep_folders_of_dead_owners_and_kept_ones_are_removed(doomed: Path) -> None:
    with encamp.sandbox(keep=True) as folder:
        nest(folder, 1_500)
    (left,) = kept(local_storage()).iterdir()
    remove_tree(left, local_storage())
    owned = OwnedFolder("name")
    nest(owned.task, 1_500)
    os.close(owned._lock)
    assert owned._folder is not None
    os.close(owned._folder)
    owned.path.with_name(f"{owned.path.name}.lock").unlink()
    assert reclaim() == [owned.path]
    assert not owned.path.exists()


def test_deep_trees_are_copied_linked_and_listed(memory: Path) -> None:
    """Deeper than Python's functions may call themselves."""
    (memory / "tree").mkdir()
    nest(memory / "tree", 1_010)
    copied = copy_tree(memory / "tree", memory / "copy", (), readonly=False)
    link_tree(memory / "copy", memory / "links")
    assert tree_state(memory / "links").content == copied.content
    assert copied.files == 11
    assert sum(status is None for _, status in entries_below(memory / "tree")) == 1
    for name in ("tree", "copy", "links"):
        remove_tree(memory / name, memory)


@pytest.mark.parametrize(("pattern", "files"), [("d", 11), ("**/file", 12)])
def test_outputs_are_published_however_deep_they_are(
    pattern: str, files: int, memory: Path, doomed: Path
) -> None:
    with encamp.sandbox(outputs={pattern: "made"}, to=memory / "to") as folder:
        nest(folder, 1_010)
        (folder / "d/file").write_text("x")
    made = memory / "to/made"
    found = subprocess.run(["find", made, "-type", "f"], capture_output=True, check=True).stdout
    assert found.count(b"\n") == files
    assert (made / "d/file").read_text() == "x"
    remove_tree(made, memory)


def test_overlong_paths_are_refused_by_name(here: Path, doomed: Path) -> None:
    (doomed / "tree").mkdir()
    nest(doomed / "tree", 30, "d" * 200)
    with pytest.raises(UnusableInput, match="file name too long"):
        plan([Mirror("tree")], doomed)
    with pytest.raises(UnusableOutput, match="file name too long"):
        stage(doomed, as_outputs("tree"), here / "to", token="t", task="name")
    remove_tree(doomed, local_storage())


def test_leftovers_at_a_deep_destination_are_found(memory: Path) -> None:
    here = memory
    (here / "out").mkdir()
    nest(here / "out", 1_010)
    deepest = here / "out" / "/".join(["d"] * 1_005)
    (deepest / f"{PART}0123456789ab-0").write_text("half")
    discard_leftovers([here / "out"], "0123456789ab", os.geteuid())
    assert not (deepest / f"{PART}0123456789ab-0").exists()
    remove_tree(here / "out", here)


def test_folders_without_permissions_go(tmp_path: Path) -> None:
    with open_folder() as base:
        code = """
import os, sys
from pathlib import Path
from encamp.storage.disk.removal import remove_tree
base = Path(sys.argv[1])
for mode in (0, 0o100, 0o400, 0o500, 0o200):
    (base / "doomed" / oct(mode) / "deep").mkdir(parents=True)
    (base / "doomed" / oct(mode) / "deep/a").write_text("x")
    (base / "doomed" / oct(mode) / "deep").chmod(mode)
    (base / "doomed" / oct(mode)).chmod(mode)
(base / "doomed").chmod(0)
remove_tree(base / "doomed", base)
assert not os.path.lexists(base / "doomed")
"""
        as_somebody(code, base)


def as_somebody(code: str, base: Path) -> subprocess.CompletedProcess[str]:
    """Run code as an ordinary user, here by taking away root's power over files."""
    words = [sys.executable, "-c", code, str(base)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *words]
    done = subprocess.run(words, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def immutable(path: Path) -> None:
    done = subprocess.run(["chattr", "+i", path], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this disk or user knows no immutable files")


def mutable(path: Path) -> None:
    subprocess.run(["chattr", "-i", path], check=True)


def test_unremovable_files_are_named_and_others_removed(doomed: Path) -> None:
    for name in ("a/x", "b/fixed", "c/x", "b/deep/x"):
        (doomed / name).parent.mkdir(parents=True, exist_ok=True)
        (doomed / name).write_text("x")
    immutable(doomed / "b/fixed")
    try:
        with pytest.raises(NotRemoved, match=r"b/fixed: Operation not permitted$"):
            remove_tree(doomed, local_storage())
        assert [str(p.relative_to(doomed)) for p in doomed.rglob("*")] == ["b", "b/fixed"]
    finally:
        mutable(doomed / "b/fixed")


def test_mounted_folder_is_not_emptied(doomed: Path, here: Path) -> None:
    (here / "precious").write_text("precious")
    (doomed / "deep/mounted").mkdir(parents=True)
    (doomed / "deep/a").write_text("x")
    done = subprocess.run(
        ["mount", "--bind", here, doomed / "deep/mounted"], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        mounted = overlay.mounts_below(doomed)
        with pytest.raises(NotRemoved, match="deep/mounted: something is mounted there"):
            remove_tree(doomed, local_storage(), mounted)
        assert (here / "precious").exists()
        assert not (doomed / "deep/a").exists()
    finally:
        subprocess.run(["umount", doomed / "deep/mounted"], check=True)


def test_a_disk_that_is_mounted_in_it_unknown_to_anybody_is_not_emptied(doomed: Path) -> None:
    (doomed / "deep").mkdir(parents=True)
    (doomed / "deep/file").touch()
    with small_disk(doomed / "deep/other", "1m") as disk:
        (disk / "theirs").touch()
        with pytest.raises(NotRemoved, match="deep/other: something is mounted there"):
            remove_tree(doomed, local_storage())
        assert (disk / "theirs").exists()
        assert not (doomed / "deep/file").exists()


def test_another_pass_removes_what_has_changed_though_something_else_cannot_be_removed(
    doomed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = {f"stays-{number}" for number in range(12)}
    for name in (*sorted(stays)[:6], "changes", *sorted(stays)[6:]):
        (doomed / name).mkdir(parents=True)
    real, left = os.rmdir, iter([errno.ENOTEMPTY] * 2)

    def rmdir(name: str, *, dir_fd: int) -> None:
        if name in stays or (name == "changes" and (number := next(left, 0))):
            number = errno.EPERM if name in stays else number
            raise OSError(number, os.strerror(number))
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", rmdir)
    with pytest.raises(NotRemoved) as caught:
        remove_tree(doomed, local_storage())
    assert {Path(path).name for path in caught.value.paths} == stays
    monkeypatch.undo()


def test_a_folder_that_is_moved_while_it_is_emptied_goes_with_another_pass(
    doomed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = removal._opened

    def moved(name: str, above: int) -> tuple[int, os.stat_result]:
        found = opened(name, above)
        if name == "b" and (doomed / "a/b").exists():
            (doomed / "a/b").rename(doomed / "b")
        return found

    monkeypatch.setattr(removal, "_opened", moved)
    monkeypatch.setattr(removal, "removed_at_once", lambda *_: False)
    (doomed / "a/b/c").mkdir(parents=True)
    remove_tree(doomed, local_storage())
    assert not doomed.exists()


@pytest.mark.parametrize("at", [".", "deep/mounted"])
def test_mounted_folder_is_not_emptied_without_mount_list(
    doomed: Path, here: Path, at: str
) -> None:
    """A folder of the same disk, which only the kernel can tell from one that was made there."""
    (doomed / "deep/mounted").mkdir(parents=True)
    source = Path(tempfile.mkdtemp(dir=doomed.parent))
    (source / "precious").write_text("precious")
    done = subprocess.run(
        ["mount", "--bind", source, doomed / at], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    above = os.open(doomed.parent, os.O_RDONLY)
    try:
        assert not removed_at_once(doomed.name, above)
        assert (source / "precious").exists()
    finally:
        os.close(above)
        subprocess.run(["umount", doomed / at], check=True)
        shutil.rmtree(source)


def test_a_folder_is_removed_on_a_kernel_without_openat2(
    doomed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (doomed / "deep/below").mkdir(parents=True)
    (doomed / "deep/a").write_text("x")
    monkeypatch.setattr(removal, "_OPENAT2", 100_000)
    remove_tree(doomed, local_storage())
    assert not doomed.exists()


def test_a_symlink_is_never_followed(doomed: Path, here: Path) -> None:
    (here / "precious").write_text("precious")
    (doomed / "way").symlink_to(here)
    mode = stat.S_IMODE(here.stat().st_mode)
    remove_tree(doomed, local_storage())
    assert (here / "precious").exists()
    assert stat.S_IMODE(here.stat().st_mode) == mode


def clean(*options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "encamp", "clean", *options]
    return subprocess.run(words, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("place", ["sandboxes", "kept"])
def test_clean_removes_what_it_can_names_the_rest_and_fails(place: str, here: Path) -> None:
    storage = local_storage()
    for name in ("first", "second", "third"):
        (storage / place / name / "task").mkdir(parents=True)
        (storage / place / name / "task/a").write_text("x")
    immutable(storage / place / "second/task/a")
    try:
        done = clean("--all")
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            f"removed {storage}/{place}/first",
            f"removed {storage}/{place}/third",
        ]
        why = f"{storage}/{place}/second/task/a: Operation not permitted"
        assert done.stderr == f"encamp: cannot remove {storage}/{place}/second: {why}\n"
        assert clean("--all").returncode == 1
        assert clean().returncode == (1 if place == "sandboxes" else 0)
    finally:
        mutable(storage / place / "second/task/a")
    assert clean("--all").returncode == 0
    assert list((storage / place).glob("*")) == []


def test_a_mode_link_over_two_disks_is_refused(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == here.stat().st_dev:
        pytest.skip("there is no second disk")
    monkeypatch.setenv(LOCAL, str(tmp_path))
    mine = other / f"encamp-test-{os.getpid()}"
    mine.mkdir()
    try:
        (local_storage() / "cache").symlink_to(mine)
        (here / "tree").mkdir()
        for name in ("a", "tree/b"):
            (here / name).write_text("content")
        for name in ("a", "tree"):
            with (
                pytest.raises(encamp.StorageError, match="on different disks"),
                mirrored(Mirror(name, mode="link"), here),
            ):
                pytest.fail("a copy would be writable")
            with mirrored(Mirror(name, readonly=True), here) as folder:
                assert (folder / name).exists()
    finally:
        shutil.rmtree(mine)
