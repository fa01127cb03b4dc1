"""The folder that a slot keeps for its next task: always new to the task, and always owned."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_processes import run, start

from encamp.storage.dead_owners import reclaim
from encamp.storage.disk import removal
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.owned_folder import LOCK, LOG, OwnedFolder, sandboxes
from encamp.storage.spare_folder import owned_folder, put_aside, remove_spare

RECLAIM = "from encamp.storage.dead_owners import reclaim; print(*reclaim())"
KEEPER = """
    import time
    from encamp.storage.spare_folder import owned_folder, put_aside
    owned = owned_folder("first")
    put_aside(owned)
    print(owned.path, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    remove_spare()


def left() -> list[str]:
    return sorted(os.listdir(sandboxes(local_storage())))


def used(leave: Callable[[OwnedFolder], object] = lambda _: None) -> OwnedFolder:
    """A folder that a task has used and that was put aside."""
    owned = owned_folder("first")
    (owned.path / LOG).touch()
    leave(owned)
    put_aside(owned)
    return owned


def renewed(leave: Callable[[OwnedFolder], object]) -> bool:
    """Whether a folder is used again; the next task finds a new one in any case."""
    owned = used(leave)
    before = owned.path
    following = owned_folder("second")
    assert following.path.name.startswith("second.")
    assert not before.exists()
    assert left() == [following.path.name, following.path.name + LOCK]
    assert following.path.stat().st_mode & 0o777 == 0o700
    assert following.task.stat().st_mode & 0o777 == 0o700
    assert list(following.task.iterdir()) == []
    beside = {path.name: path.lstat().st_size for path in following.path.iterdir()}
    assert beside.items() <= {LOG: 0, "task": following.task.stat().st_size}.items()
    assert run(RECLAIM).strip() == ""
    assert following.task.is_dir()
    put_aside(following)
    return following is owned


@pytest.mark.parametrize(
    "leave",
    [
        lambda owned: None,
        lambda owned: (owned.task / "result").write_text("a result"),
        lambda owned: (owned.path / LOG).write_text("what it has printed"),
        lambda owned: (owned.path / LOG).unlink(),
        lambda owned: (owned.path / LOG).unlink() or os.mkfifo(owned.path / LOG),
        lambda owned: (owned.path / LOG).unlink() or (owned.path / LOG).symlink_to("/etc/hostname"),
    ],
)
def test_the_next_task_finds_an_empty_folder_with_a_name_of_its_own(
    leave: Callable[[OwnedFolder], object],
) -> None:
    assert renewed(leave)


def lock_closed(owned: OwnedFolder) -> None:
    """What code of a task may do that closes descriptors it does not know."""
    os.close(owned._lock)


def other_file_for_lock(owned: OwnedFolder) -> None:
    other = os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, owned._lock)
    os.close(other)


def folder_closed(owned: OwnedFolder) -> None:
    assert owned._folder is not None
    os.close(owned._folder)


@pytest.mark.parametrize(
    "leave",
    [
        lock_closed,
        other_file_for_lock,
        folder_closed,
        lambda owned: Path(f"{owned.path}{LOCK}").unlink(),
        lambda owned: owned.path.chmod(0o777),
        lambda owned: owned.note_linked([Path("/nowhere/tree")]),
        lambda owned: (owned.path / "secret").write_text("for itself"),
        lambda owned: (owned.path / "empty").touch(),
        lambda owned: (owned.path / "folder/below").mkdir(parents=True),
        lambda owned: shutil.rmtree(owned.task),
        lambda owned: owned.note_parts([Path("/nowhere/.encamp-x")]),
        lambda owned: shutil.rmtree(owned.path),
    ],
)
def test_a_folder_that_is_not_surely_this_process_s_own_is_not_used_again(
    leave: Callable[[OwnedFolder], object],
) -> None:
    assert not renewed(leave)


def test_a_cleaner_that_removes_a_spare_folder_does_no_harm() -> None:
    owned = used()
    shutil.rmtree(sandboxes(local_storage()))
    following = owned_folder("second")
    assert following.task.is_dir()
    assert not owned.path.exists()
    following.remove()
    assert left() == []


def test_another_local_storage_gets_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = used()
    monkeypatch.setenv(LOCAL, str(tmp_path / "other"))
    following = owned_folder("second")
    assert following.path.is_relative_to(tmp_path / "other")
    assert not owned.path.exists()
    following.remove()


def test_a_spare_folder_has_an_owner_until_it_is_removed() -> None:
    used()
    assert run(RECLAIM).strip() == ""
    assert len(left()) == 2
    remove_spare()
    assert left() == []


def test_on_a_kernel_without_openat2_each_task_gets_a_new_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(removal, "_OPENAT2", 100_000)
    assert not renewed(lambda owned: (owned.task / "result").write_text("a result"))


def test_only_one_folder_is_spare() -> None:
    first, second = owned_folder("first"), owned_folder("second")
    put_aside(first)
    put_aside(second)
    assert left() == [first.path.name, first.path.name + LOCK]


def test_a_folder_that_has_only_half_of_its_new_name_is_left_alone_and_reclaimed() -> None:
    process = start(KEEPER)
    assert process.stdout is not None
    before = Path(process.stdout.readline().strip())
    after = before.with_name("second.0123")
    Path(f"{before}{LOCK}").rename(f"{after}{LOCK}")
    try:
        assert reclaim() == []
        assert before.is_dir()
    finally:
        process.kill()
        process.communicate()
    assert reclaim() == [before]
    assert left() == []


def test_a_process_removes_its_spare_folder_when_it_ends() -> None:
    run("from encamp.storage.spare_folder import *; put_aside(owned_folder('first'))")
    assert left() == []


def test_spare_folder_removal_waits_for_other_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owned, begun, go = used(), threading.Event(), threading.Event()

    def remove(of: OwnedFolder) -> None:
        begun.set()
        go.wait(30)
        original(of)

    original = OwnedFolder.remove
    monkeypatch.setattr(OwnedFolder, "remove", remove)
    threads = [threading.Thread(target=remove_spare) for _ in range(2)]
    threads[0].start()
    begun.wait(30)
    threads[1].start()
    threads[1].join(0.05)  # as long as it may take to return without having waited
    assert threads[1].is_alive()
    go.set()
    for thread in threads:
        thread.join()
    assert not owned.path.exists()


def test_spare_folder_of_killed_process_is_reclaimed() -> None:
    process = start(KEEPER)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    assert reclaim() == [folder]
    assert left() == []
