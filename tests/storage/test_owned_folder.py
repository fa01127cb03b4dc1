"""Folders and their owners: those of dead owners are removed, those of living owners stay."""

from __future__ import annotations

import fcntl
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from other_processes import finish, open_folder, run, start, unprivileged

from encamp.errors import UnsafeTarget
from encamp.storage import dead_owners, owned_folder
from encamp.storage.dead_owners import keep_dead, reclaim, reclaim_folder
from encamp.storage.disk.removal import remove_tree
from encamp.storage.kept_folders import clean_kept, kept
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.owned_folder import LOCK, RESCUE, OwnedFolder, forget_rescue, sandboxes
from encamp.storage.process_identity import ProcessFacts, this_process

OWNER = """
    import time
    from encamp.storage.owned_folder import OwnedFolder
    owned = OwnedFolder("job.task")
    (owned.task / "result").write_text("half done")
    print(owned.path, flush=True)
    time.sleep(600)
"""


def killed_owner() -> Path:
    """The folder of a process that was killed with SIGKILL."""
    process = start(OWNER)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    assert (folder / "task/result").exists()
    return folder


def left() -> list[str]:
    return sorted(os.listdir(sandboxes(local_storage())))


def test_folder_is_private_and_removed_completely() -> None:
    owned = OwnedFolder("name")
    assert owned.path.stat().st_mode & 0o777 == 0o700
    assert owned.task.stat().st_mode & 0o777 == 0o700
    assert list(owned.task.iterdir()) == []
    (owned.task / "x").write_text("x")
    owned.remove()
    owned.remove()
    assert left() == []


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "", "-rf", "a\0b", "new\nline", "ü" * 300, "\udcff", "x.lock"]
)
def test_any_name_makes_a_folder_of_the_local_storage(name: str) -> None:
    owned = OwnedFolder(name)
    try:
        assert owned.path.parent == sandboxes(local_storage())
        assert reclaim() == []
        assert owned.task.is_dir()
    finally:
        owned.remove()
    assert left() == []


def test_leftovers_of_killed_process_are_reclaimed() -> None:
    folder = killed_owner()
    assert reclaim(dry_run=True) == [folder]
    assert folder.exists()
    assert reclaim() == [folder]
    assert left() == []
    assert reclaim() == []


def test_the_folder_of_a_living_owner_is_never_reclaimed() -> None:
    living = start(OWNER)
    try:
        assert living.stdout is not None
        folder = Path(living.stdout.readline().strip())
        for _ in range(20):
            assert reclaim() == []
            assert not reclaim_folder(folder)
            assert keep_dead(folder) is None
        assert (folder / "task/result").exists()
    finally:
        living.kill()
        living.communicate()
    assert reclaim() == [folder]


def noted(folder: Path, supervisor: ProcessFacts) -> None:
    (folder / RESCUE).write_bytes(supervisor.as_bytes() + b"\nplan")


@pytest.mark.parametrize("with_lock", [True, False])
def test_a_folder_from_which_a_living_process_rescues_files_is_left_to_it(with_lock: bool) -> None:
    folder = killed_owner()
    noted(folder, this_process())
    if not with_lock:
        Path(f"{folder}{LOCK}").unlink()
    for dry_run in (True, False):
        assert reclaim(dry_run=dry_run) == []
    assert (folder / "task/result").exists()
    forget_rescue(folder)
    assert reclaim_folder(folder)
    assert left() == []


def test_a_folder_whose_rescuer_is_dead_or_not_visible_is_reclaimed() -> None:
    me = this_process()
    for other in (
        replace(me, start="1"),
        replace(me, boot="earlier"),
        replace(me, namespace="another"),
        replace(me, pid=2**30),
    ):
        folder = killed_owner()
        noted(folder, other)
        assert reclaim() == [folder]
    folder = killed_owner()
    (folder / RESCUE).write_bytes(b"")  # the disk was full
    assert reclaim() == [folder]


def test_an_owner_is_safe_from_cleaning_by_its_own_process() -> None:
    owned = OwnedFolder("name")
    assert reclaim() == []
    assert owned.task.is_dir()
    owned.remove()


def test_a_stopped_owner_lives() -> None:
    living = start(OWNER)
    assert living.stdout is not None
    folder = Path(living.stdout.readline().strip())
    os.kill(living.pid, signal.SIGSTOP)
    try:
        assert reclaim() == []
        assert folder.exists()
    finally:
        living.kill()
        living.communicate()
    assert reclaim() == [folder]


CLEANER = """
    import sys
    from encamp.storage.dead_owners import reclaim
    sys.stdin.readline()
    for _ in range(40):
        for folder in reclaim():
            print(folder)
"""

MAKER = """
    import sys
    from encamp.storage.owned_folder import OwnedFolder
    sys.stdin.readline()
    for number in range(150):
        owned = OwnedFolder("busy")
        (owned.task / "x").write_text("x")
        assert (owned.task / "x").read_text() == "x"
        owned.remove()
"""


def test_cleaners_that_race_harm_no_maker_and_leave_nothing() -> None:
    """Two clean while two make and remove folders, and while dead ones lie around."""
    root = sandboxes(local_storage())
    root.mkdir()
    dead = {root / f"dead.{number}" for number in range(60)}
    for folder in dead:
        (folder / "task/deep").mkdir(parents=True)
        (folder / "task/deep/x").write_text("x")
        folder.with_name(folder.name + LOCK).touch()
    processes = [start(code, stdin=-1) for code in (CLEANER, CLEANER, MAKER, MAKER)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    message = "".join(finish(process) for process in processes)
    assert {Path(line) for line in message.splitlines()} == dead
    assert len(message.splitlines()) == len(dead), "each is claimed by one cleaner"
    assert left() == []


def test_a_lock_without_a_folder_and_a_folder_without_a_lock_go() -> None:
    root = sandboxes(local_storage())
    root.mkdir()
    (root / f"a{LOCK}").touch()
    (root / "b/task").mkdir(parents=True)
    assert reclaim() == [root / "b"]
    assert left() == []


def test_a_lock_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    root = sandboxes(local_storage())
    root.mkdir()
    (tmp_path / "precious").write_text("x")
    (root / f"a{LOCK}").symlink_to(tmp_path / "precious")
    with pytest.warns(UserWarning, match="cannot remove"):
        reclaim()
    assert (tmp_path / "precious").read_text() == "x"
    (root / f"a{LOCK}").unlink()


def test_unremovable_leftover_blocks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = sandboxes(local_storage())
    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
    real = os.rmdir

    def rmdir(path: object, **options: int) -> None:
        if str(path).endswith("b"):
            raise OSError(16, "device or resource busy", path)
        real(path, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", rmdir)
        with pytest.warns(UserWarning, match="busy"):
            assert reclaim() == [root / "a", root / "c"]
    assert reclaim() == [root / "b"]


def test_kept_folder_has_no_owner_and_stays() -> None:
    owned = OwnedFolder("name")
    (owned.task / "x").write_text("look at me")
    place = owned.keep()
    assert place.parent == kept(local_storage())
    assert left() == []
    assert reclaim() == []
    assert (place / "task/x").read_text() == "look at me"
    assert clean_kept(dry_run=True) == [place]
    assert clean_kept() == [place]
    assert not place.exists()
    assert clean_kept() == []


def test_the_folder_of_a_dead_owner_can_be_kept_once() -> None:
    folder = killed_owner()
    place = keep_dead(folder)
    assert place is not None
    assert (place / "task/result").read_text() == "half done"
    assert keep_dead(folder) is None
    assert left() == []
    clean_kept()


def test_a_forked_child_that_unwinds_leaves_its_parents_folder_alone() -> None:
    owned = OwnedFolder("name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-timeout has a thread
        child = os.fork()
    if child == 0:
        owned.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert owned.task.is_dir()
    owned.remove()
    assert left() == []


def test_removing_follows_no_symlink(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("x")
    precious.chmod(0o555)
    owned = OwnedFolder("name")
    (owned.task / "folder").symlink_to(precious)
    (owned.task / "file").symlink_to(precious / "thesis")
    (owned.task / "closed").mkdir(mode=0)
    (owned.task / "closed").chmod(0)
    owned.remove()
    assert (precious / "thesis").read_text() == "x"
    assert precious.stat().st_mode & 0o777 == 0o555
    precious.chmod(0o755)


def test_a_folder_replaced_by_a_symlink_loses_only_the_symlink(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    owned = OwnedFolder("name")
    owned.task.rmdir()
    owned.path.rmdir()
    owned.path.symlink_to(tmp_path / "precious")
    owned.remove()
    assert (tmp_path / "precious").is_dir()
    assert left() == []


def test_nothing_outside_the_root_is_ever_removed(tmp_path: Path) -> None:
    root = local_storage()
    precious = tmp_path / "precious"
    (precious / "inner").mkdir(parents=True)
    (root / "way").symlink_to(precious)
    (root / "a").mkdir()
    for folder in (
        root,
        root.parent,
        precious,
        root / "..",
        root / "a/../../..",
        root / "way/inner",
        root.with_name(root.name + "2"),
    ):
        with pytest.raises(UnsafeTarget):
            remove_tree(folder, root)
    assert (precious / "inner").is_dir()
    remove_tree(root / "way", root)
    assert (precious / "inner").is_dir()
    assert not (root / "way").is_symlink()


def test_removing_what_is_not_there_does_nothing() -> None:
    remove_tree(local_storage() / "gone", local_storage())


def test_folders_that_their_owner_may_not_write_to_or_read_go_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attempt() -> str:
        owned = OwnedFolder("name")
        deep = owned.task / "a/b/c"
        deep.mkdir(parents=True)
        for folder in (deep, deep.parent, deep.parent.parent):
            (folder / "x").write_text("x")
            (folder / "x").chmod(0)
        deep.chmod(0o500)
        deep.parent.chmod(0o400)
        deep.parent.parent.chmod(0)
        owned.task.chmod(0o555)
        owned.path.chmod(0o500)
        owned.remove()
        return str(left())

    with open_folder() as base:
        monkeypatch.setenv(LOCAL, str(base))
        assert unprivileged(attempt) == "[]"


def test_writing_process_does_not_prevent_removal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owned = OwnedFolder("name")
    real = os.rmdir
    written = []

    def rmdir(path: str, **options: int) -> None:
        if len(written) < 5:
            written.append(owned.task / f"late {len(written)}")
            written[-1].touch()
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    owned.remove()
    assert len(written) == 5
    assert left() == []


def test_second_cleaner_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the lock file open when the first cleaner removes it."""
    folder = killed_owner()
    real = dead_owners._locked_now

    def late(fd: int) -> bool:
        monkeypatch.setattr(dead_owners, "_locked_now", real)
        assert reclaim() == [folder]
        return real(fd)

    monkeypatch.setattr(dead_owners, "_locked_now", late)
    assert not reclaim_folder(folder)


def test_a_lock_that_a_cleaner_takes_before_its_maker_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = fcntl.flock

    def late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        run("from encamp.storage.dead_owners import reclaim; reclaim()")
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    owned = OwnedFolder("name")
    run("from encamp.storage.dead_owners import reclaim; reclaim()")
    assert owned.task.is_dir()
    owned.remove()


def test_a_lock_that_is_made_again_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    OwnedFolder("first").remove()  # what a first use opens for good
    owned = OwnedFolder("name")
    usual = len(os.listdir("/proc/self/fd"))
    owned.remove()
    tries: list[int] = []

    def is_at(fd: int, path: Path, is_at: Any = owned_folder.is_at) -> bool:
        tries.append(fd)
        return len(tries) > 5 and is_at(fd, path)

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(owned_folder, "is_at", is_at)
        owned = OwnedFolder("name")
    assert len(tries) > 5
    found = len(os.listdir("/proc/self/fd"))
    owned.remove()
    assert found == usual
    assert len(os.listdir("/proc/self/fd")) == before


NOTING = """
    import sys, time
    from pathlib import Path
    from encamp.storage.owned_folder import OwnedFolder
    owned = OwnedFolder("job.task")
    (owned.task / "result").write_text("half done")
    parts = [Path(name) for name in sys.argv[1:]]
    owned.note_parts(parts[:2])
    owned.note_part(parts[2])
    for part in parts:
        part.write_text("half there")
    print(owned.path, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("becomes", ["reclaimed", "kept"])
def test_temporary_files_that_a_dead_owner_noted_go_with_its_folder(
    tmp_path: Path, becomes: str
) -> None:
    parts = [tmp_path / f".encamp-{name}" for name in ("one", "two")]
    kept_by_name = tmp_path / "three"  # not called like a temporary file: never removed
    process = start(NOTING, *parts, kept_by_name)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert reclaim() == []
    assert keep_dead(folder) is None
    assert [path.exists() for path in (*parts, kept_by_name)] == [True] * 3
    process.kill()
    process.communicate()
    if becomes == "kept":
        kept_at = keep_dead(folder)
        assert kept_at is not None
        assert (kept_at / "task/result").read_text() == "half done"
        clean_kept()
    else:
        assert reclaim() == [folder]
    assert [path.exists() for path in (*parts, kept_by_name)] == [False, False, True]
    assert left() == []


def test_the_environment_of_the_task_does_not_move_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    owned = OwnedFolder("name")
    with monkeypatch.context() as patch:
        patch.setenv(LOCAL, str(tmp_path / "elsewhere"))
        patch.setenv("USER", "somebody")
        patch.setenv("LOGNAME", "somebody")
        owned.remove()
    assert left() == []


def test_a_lock_outlives_no_exec() -> None:
    """A command that a task started and left behind does not make its owner look alive."""
    output = run(
        """
        import subprocess, sys
        from encamp.storage.owned_folder import OwnedFolder
        owned = OwnedFolder("name")
        child = subprocess.Popen(["sleep", "600"], close_fds=False,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(owned.path, child.pid)
        """
    )
    folder, pid = output.split()
    try:
        assert reclaim() == [Path(folder)]
    finally:
        os.kill(int(pid), signal.SIGKILL)
