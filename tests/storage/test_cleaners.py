"""Cleaners of temporary files: they are kept away if possible, and their removals are noticed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from other_processes import finish, run, start
from placed_inputs import mirrored, placed

import encamp
from encamp.errors import InputLost
from encamp.storage.cache import integrity
from encamp.storage.cache.cache import INDEX, HostCache
from encamp.storage.cache.locks import KeyLock
from encamp.storage.dead_owners import reclaim
from encamp.storage.disk.tmp_cleaners import locked
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.owned_folder import OwnedFolder
from encamp.storage.placing import modes

FILES = 40


@pytest.fixture
def tree(here: Path) -> Path:
    for number in range(FILES):
        path = here / f"tree/{number % 4}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}")
    (here / "tree/empty").mkdir()
    return here / "tree"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_text() for path in files}
    return found | {f"{p.relative_to(folder)}/": "" for p in folder.rglob("*") if p.is_dir()}


def cached_tree() -> Path:
    (entry,) = (local_storage() / "cache/trees").glob("*/*")
    return entry / "tree"


def remove_file(entry: Path) -> None:
    (entry / "1/1").unlink()


def empty_folder(entry: Path) -> None:
    shutil.rmtree(entry / "2")
    (entry / "2").mkdir()


def remove_empty_folder(entry: Path) -> None:
    (entry / "empty").rmdir()


def truncate(entry: Path) -> None:
    os.truncate(entry / "1/1", 3)


def replace(entry: Path) -> None:
    (entry / "new").write_text("another")
    (entry / "new").replace(entry / "3/3")


def remove_tree(entry: Path) -> None:
    shutil.rmtree(entry)


def remove_entry(entry: Path) -> None:
    shutil.rmtree(entry.parent)


def put_file_in_place(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


HARMS = [
    remove_file,
    empty_folder,
    remove_empty_folder,
    truncate,
    replace,
    remove_tree,
    remove_entry,
    put_file_in_place,
]
MODES = ["auto", "copy", "link", "overlay"]


def skip_without(mode: str) -> None:
    if mode == "overlay" and (why := modes.why_no_overlay(local_storage())):
        pytest.skip(why)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("mode", MODES)
def test_incomplete_cached_tree_is_refetched(
    mode: str, harm: Callable[[Path], None], tree: Path
) -> None:
    skip_without(mode)
    spec = Mirror("tree", mode=mode)  # type: ignore[arg-type]
    with mirrored(spec, tree.parent):
        pass
    harm(cached_tree())
    with mirrored(spec, tree.parent) as folder:
        assert contents(folder / "tree") == contents(tree)


@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm is not truncate])
def test_incomplete_large_tree_is_refetched_despite_recent_check(
    harm: Callable[[Path], None], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncation is what no cleaner does; that is found by the next look at all files."""
    monkeypatch.setattr(integrity, "_ALWAYS", 10)
    monkeypatch.setattr(integrity, "_PAUSE", 1e9)
    for _ in range(2):
        with mirrored("tree", tree.parent):
            pass
    harm(cached_tree())
    with mirrored("tree", tree.parent) as folder:
        assert contents(folder / "tree") == contents(tree)


def test_the_cache_tells_that_an_entry_was_not_whole(tree: Path) -> None:
    for _ in range(2):
        with mirrored("tree", tree.parent):
            pass
        remove_file(cached_tree())
    with HostCache() as cache:
        events = cache.events(str(tree))
    assert [event.what for event in events] == ["fetched", "dropped"]
    assert "damaged" in events[1].why


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 1)])
@pytest.mark.parametrize("readonly", [True, False])
def test_incomplete_cached_file_is_refetched(
    readonly: bool, harm: Callable[[Path], None], here: Path
) -> None:
    (here / "a").write_text("content")
    for _ in range(2):
        with mirrored(Mirror("a", readonly=readonly), here) as folder:
            assert (folder / "a").read_text() == "content"
        for entry in (local_storage() / "cache/files").glob("*/*"):
            harm(entry)


@pytest.mark.parametrize("mode", ["link", "overlay"])
def test_a_task_whose_cached_tree_loses_a_file_meanwhile_publishes_nothing(
    mode: str, tree: Path
) -> None:
    skip_without(mode)

    def block() -> None:
        spec = Mirror("tree", mode=mode)  # type: ignore[arg-type]
        with encamp.sandbox(spec, {"result": "out"}) as folder:
            remove_file(cached_tree())
            (folder / "result").write_text("of 39 files")

    with pytest.raises(InputLost, match="tree was damaged or removed"):
        block()
    assert not Path("out/result").exists()
    with mirrored("tree", tree.parent) as folder:
        assert contents(folder / "tree") == contents(tree)


def test_a_task_whose_big_file_vanishes_from_under_it_publishes_nothing(here: Path) -> None:
    skip_without("overlay")
    (here / "big").write_bytes(os.urandom(1 << 20))
    whole = modes.why_no_whole_overlay(local_storage()) is None
    name = "view/task/big" if whole else "view/big"
    with pytest.raises(InputLost), encamp.sandbox(Mirror("big", mode="overlay")) as folder:
        (folder.parent / name).unlink()


def test_a_jobs_task_sees_all_files_after_a_cleaner_has_been_there(tree: Path) -> None:
    job = encamp.Job("job", to="out", mirror="tree")
    count = encamp.command("find tree -type f | wc -l > count", shell=True)
    job.add("first", count, outputs={"count": "first"})
    job.run(slots=1)
    remove_file(cached_tree())
    job = encamp.Job("job", to="out", mirror="tree")
    job.add("second", count, outputs={"count": "second"})
    job.run(slots=1)
    assert Path("out/second/count").read_text().strip() == str(FILES)


def free_for_a_cleaner(folder: Path) -> bool:
    """Whether systemd-tmpfiles would go into a folder: it wants its lock alone, without waiting."""
    fd = locked(folder, fcntl.LOCK_EX)
    if fd is not None:
        os.close(fd)
    return fd is not None


def test_cleaners_that_heed_locks_pass_by_while_a_process_uses_the_storage(here: Path) -> None:
    storage = local_storage()
    code = "import encamp\nwith encamp.sandbox(): print(flush=True); input()"
    process = start(code, stdin=-1)
    assert process.stdout is not None
    process.stdout.readline()
    assert not free_for_a_cleaner(storage)
    process.communicate("\n")
    with encamp.sandbox():
        assert not free_for_a_cleaner(storage)


def test_a_storage_that_was_removed_and_made_again_is_locked_again(here: Path) -> None:
    with encamp.sandbox():
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        shutil.rmtree(local_storage())
        with encamp.sandbox():
            assert not free_for_a_cleaner(local_storage())
    assert len(os.listdir("/proc/self/fd")) == before


def test_living_owner_keeps_folder_without_lock_file() -> None:
    owned = OwnedFolder("name")
    (owned.task / "result").write_text("mine")
    owned.path.with_name(f"{owned.path.name}.lock").unlink()
    assert reclaim() == []
    assert (owned.task / "result").exists()
    owned.remove()
    assert not owned.path.exists()


ABANDONED = """
    from encamp.storage.owned_folder import OwnedFolder
    import os
    owned = OwnedFolder("name")
    owned.path.with_name(f"{owned.path.name}.lock").unlink()
    print(owned.path, flush=True)
    os._exit(9)
"""


def test_dead_owners_folder_without_lock_file_is_removed() -> None:
    process = start(ABANDONED)
    folder = Path(process.communicate()[0].strip())
    assert folder.is_dir()
    assert reclaim() == [folder]
    assert not folder.exists()


def test_a_lock_holds_though_the_file_of_locks_was_removed(tmp_path: Path) -> None:
    """Who comes later takes the lock in the new file, and so does who had the old one open."""
    early = KeyLock(tmp_path / "locks", "key")
    (tmp_path / "locks").unlink()
    late = KeyLock(tmp_path / "locks", "key")
    late.take()
    assert not early.take_if_free()
    late.close()
    assert early.take_if_free()
    early.close()


def test_locks_that_are_in_use_look_used(tmp_path: Path) -> None:
    (tmp_path / "locks").touch()
    os.utime(tmp_path / "locks", (0, 0))
    lock = KeyLock(tmp_path / "locks", "key")
    lock.share()
    assert (tmp_path / "locks").stat().st_mtime > 1e9
    lock.close()


@pytest.mark.parametrize("gone", [INDEX, "locks", "partial", "files", "trees"])
def test_vanished_parts_of_open_cache_are_recreated(gone: str, tree: Path) -> None:
    (tree.parent / "file").write_text("content")
    items = plan([Mirror("tree"), Mirror("file")], tree.parent)
    with HostCache() as cache:
        cache.get(plan([Mirror("tree/0/0")], tree.parent)[0])
        path = cache.root / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        for item in items:
            assert cache.get(item).exists()
    with placed(items) as sandbox:
        assert contents(sandbox.folder / "tree") == contents(tree)


def test_processes_that_use_a_tree_are_safe_from_one_another(tree: Path) -> None:
    """One finds an entry that is not whole while another still works on what was there."""
    code = """
        import encamp, sys
        with encamp.sandbox(encamp.Mirror("tree", mode="link")) as folder:
            print("in", flush=True)
            input()
            print(len(list(folder.rglob("*/*/*"))))
    """
    process = start(code, cwd=tree.parent, stdin=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    with HostCache() as cache:
        cache.forget_damaged(plan([Mirror("tree", mode="link")], tree.parent)[0])
    with mirrored(Mirror("tree", mode="link"), tree.parent) as folder:
        assert contents(folder / "tree") == contents(tree)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert finish(process).strip() == str(FILES)


def test_systemds_cleaner_leaves_alone_what_is_in_use(here: Path, tmp_path: Path) -> None:
    """With an age of zero it takes everything that it may."""
    program = shutil.which("systemd-tmpfiles")
    if program is None:
        pytest.skip("systemd-tmpfiles is not installed")
    (here / "a").write_text("content")
    base = local_storage().parent
    rules = tmp_path / "rules.conf"
    rules.write_text(f"e {base} - - - 0\n")
    clean = [program, "--clean", str(rules)]
    with encamp.sandbox(Mirror("a", readonly=True)) as folder:
        before = sorted(base.rglob("*"))
        subprocess.run(clean, check=False, capture_output=True)
        assert sorted(base.rglob("*")) == before
        assert (folder / "a").read_text() == "content"
    run("import encamp\nwith encamp.sandbox('a') as folder: print((folder / 'a').read_text())")
