"""The host cache: each file is fetched once, found again, limited, and safe from tasks."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from other_processes import finish, run, start, wait_until
from placed_inputs import placed

from encamp.errors import BadJob, DiskFull, InputDamaged, SourceChanged, UnusableInput
from encamp.storage.cache import cache as cache_module
from encamp.storage.cache import integrity
from encamp.storage.cache import room as room_module
from encamp.storage.cache.cache import INDEX, HostCache, clear_cache
from encamp.storage.cache.index import opened
from encamp.storage.cache.locks import KeyLock, exclusive
from encamp.storage.cache.room import LIMIT, Room
from encamp.storage.disk.disk_full import free_space
from encamp.storage.inputs.mirror import Item, Mirror, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.sandbox import sandbox
from encamp.storage.sandbox_folder import Sandbox
from encamp.storage.spare_folder import remove_spare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where links to entries are kept, as tasks do."""
    path = tmp_path / "links"
    path.mkdir()
    return path


def entries() -> list[Path]:
    return sorted((local_storage() / "cache/files").glob("*/*"))


def half_entries() -> list[Path]:
    return sorted((local_storage() / "cache/partial").iterdir())


def planned(source: Path) -> Item:
    """The input as a plan has it, read-only, so that tasks get links."""
    (item,) = plan([Mirror(str(source), readonly=True)], source.parent)
    return item


def fetched(source: Path, link: Path) -> int:
    """Make ``link`` a link to the entry of ``source``; returns how many files that brought."""
    with HostCache() as cache:
        os.link(cache.get(planned(source)), link)
        return cache.files


def recorded() -> list[str]:
    """The sources that the index knows."""
    with HostCache() as cache:
        return [row.source for row in cache.rows()]


def test_entry_evicted_in_use_is_not_recorded_again(here: Path) -> None:
    (here / "a").write_text("content")
    with HostCache() as cache:
        cache.get(planned(here / "a"))
        clear_cache()
    assert entries() == []
    assert recorded() == []


def test_inputs_for_which_no_room_could_be_made_are_not_recorded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("content")

    def evict(*_: object, **__: object) -> None:
        raise PermissionError("no room")

    monkeypatch.setattr(cache_module, "cache_limit", lambda _: 0)
    monkeypatch.setattr(Room, "evict", evict)
    with HostCache() as cache, pytest.raises(UnusableInput, match="no room"):
        cache.fetch_missing([planned(here / "a")])
    assert recorded() == []


def test_entry_evicted_early_is_recorded_on_arrival(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded before it is fetched, in case of a kill."""

    def copied(*args: Any, **options: Any) -> None:
        with HostCache() as other:
            assert len(other.drop(other.rows(), "room for another")) == 1
        real(*args, **options)

    real = cache_module.copy_file
    monkeypatch.setattr(cache_module, "copy_file", copied)
    (here / "a").write_text("content")
    with HostCache() as cache:
        cache.fetch_missing([planned(here / "a")])
        assert len(cache.rows()) == 1
    assert len(entries()) == 1
    assert recorded() == [str(here / "a")]


def test_entry_evicted_during_derivation_is_fetched(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("content")
    item = planned(here / "a")
    with HostCache() as cache:
        near = cache.get(plan([Mirror("a")], here)[0])

    def copied(source: Path, *args: Any, **options: Any) -> None:
        near.unlink(missing_ok=True)
        real(source, *args, **options)

    real = cache_module.copy_file
    monkeypatch.setattr(cache_module, "copy_file", copied)
    with HostCache() as cache:
        assert cache.get(item).read_text() == "content"
        assert (cache.files, near.exists()) == (1, False)


def test_the_lock_of_what_was_evicted_is_free_again(here: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree/a").write_text("content")
    with HostCache() as cache:
        cache.get(planned(here / "tree"))
    with HostCache() as cache:
        (row,) = cache.rows()
        assert cache.drop([row], "room for another") == [row]
        lock = KeyLock(local_storage() / "cache/locks", row.key)
        try:
            assert lock.take_if_free()
        finally:
            lock.close()


def test_files_and_trees_whose_records_were_lost_are_recorded_again(here: Path) -> None:
    (here / "tree").mkdir()
    for name in ("a", "tree/b", "tree/c"):
        (here / name).write_bytes(bytes(1000))
    with HostCache() as cache:
        cache.fetch_missing(plan([Mirror("*")], here))
        before = {(row.key, row.kind, row.size, row.files) for row in cache.rows()}
    (local_storage() / "cache" / INDEX).unlink()
    with HostCache() as cache:
        cache.adopt()
        assert {(row.key, row.kind, row.size, row.files) for row in cache.rows()} == before
    assert {kind: files for _, kind, _, files in before} == {"file": 1, "tree": 2}


def test_sparse_entry_is_recorded_with_its_disk_usage(here: Path) -> None:
    with (here / "holes").open("wb") as file:
        file.truncate(1 << 26)
    with HostCache() as cache:
        cache.get(planned(here / "holes"))
    (local_storage() / "cache" / INDEX).unlink()
    with HostCache() as cache:
        cache.adopt()
        (row,) = cache.rows()
    assert row.size < 1 << 20
    assert clear_cache() < 1 << 20


@pytest.mark.parametrize("end", ["put_aside", "keep", "remove"])
def test_a_tree_may_be_evicted_when_the_folder_that_it_was_put_into_has_ended(
    here: Path, end: str
) -> None:
    (here / "tree").mkdir()
    (here / "tree/a").write_text("content")
    folder = Sandbox("test")
    folder.place(plan([Mirror("tree", mode="copy")], here))
    try:
        assert clear_cache() == 0
        getattr(folder, end)()
        assert clear_cache() > 0
    finally:
        remove_spare()


def test_what_could_not_be_fetched_is_not_recorded(here: Path) -> None:
    """It would count for the limit, and others would be evicted for it."""
    for name in ("a", "b", "c"):
        (here / name).write_bytes(bytes(1000))
    items = plan([Mirror("*")], here)
    (here / "b").write_bytes(bytes(2000))
    with HostCache() as cache, pytest.raises(SourceChanged):
        cache.fetch_missing(items)
    assert recorded() == [str(here / "a")]
    with HostCache() as cache:
        cache.fetch_missing(plan([Mirror("*")], here))
    assert sorted(recorded()) == [str(here / name) for name in ("a", "b", "c")]


def test_a_tree_that_was_found_damaged_is_trusted_no_more(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two complete checks of a large tree, only its folders are looked at."""
    monkeypatch.setattr(integrity, "_ALWAYS", 0)
    monkeypatch.setattr(integrity, "_PAUSE", 1e9)
    (here / "tree").mkdir()
    (here / "tree/a").write_text("content")
    item = planned(here / "tree")
    with HostCache() as cache:
        file = cache.get(item) / "a"
        file.chmod(0o600)
        file.write_text("other")
        assert cache.is_whole(item)
        assert not cache.is_whole(item, written=True)
        assert not cache.is_whole(item)


def test_a_process_remembers_the_checks_of_some_trees_only(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "_ALWAYS", 0)
    monkeypatch.setattr(integrity, "_KEPT", 2)
    with HostCache() as cache:
        for number in range(4):
            (here / f"{number}").mkdir()
            (here / f"{number}/a").touch()
            cache.get(planned(here / f"{number}"))
            assert cache.is_whole(planned(here / f"{number}"))
    assert len(integrity._looks) <= 2


def test_a_damaged_entry_is_removed_while_nobody_can_fetch_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a good one that another process has just fetched could go."""

    @contextmanager
    def noted(file: Path, key: str) -> Iterator[None]:
        with exclusive(file, key):
            seen.append((key, len(entries())))
            yield
            seen.append((key, len(entries())))

    seen: list[tuple[str, int]] = []
    (here / "a").write_text("content")
    item = planned(here / "a")
    with HostCache() as cache:
        cache.get(item)
        monkeypatch.setattr(cache_module, "exclusive", noted)
        cache.forget_damaged(item)
    assert seen == [(f"fetching {item.identity}", 1), (f"fetching {item.identity}", 0)]


def test_whoever_opens_a_new_index_first_records_what_is_there(here: Path) -> None:
    """Otherwise nothing else on the disk would count for the limit, or ever be evicted."""
    for name in ("a", "b"):
        (here / name).write_bytes(bytes(1000))
    with HostCache() as cache:
        cache.fetch_missing(plan([Mirror("*", readonly=True)], here))
    (local_storage() / "cache" / INDEX).unlink()
    with HostCache() as cache:  # which fetches nothing
        cache.get(planned(here / "a"))
    with HostCache() as cache:
        assert len(cache.rows()) == 2


def test_a_tree_that_is_used_again_leaves_no_file_open(here: Path) -> None:
    (here / "tree").mkdir()
    with HostCache() as cache:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            cache.get(planned(here / "tree"))
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_entry_being_fetched_is_not_evicted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "10")
    (here / "a").write_bytes(bytes(1000))
    with HostCache() as cache:
        cache.fetch_missing([planned(here / "a")])
        assert [event.what for event in cache.events(str(here / "a"))] == ["fetched"]
    assert recorded() == [str(here / "a")]


@pytest.mark.parametrize("sizes", [[40_000], [20_000, 20_000]])
def test_scarce_space_is_reserved_once_during_fetch(
    here: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    rooms: list[list[int]] = []

    def copied(*args: Any, **options: Any) -> None:
        with opened(local_storage() / "cache" / INDEX) as index:
            rooms.append([size for _, size in index.rooms()])
        real(*args, **options)

    real = cache_module.copy_file
    monkeypatch.setattr(cache_module, "copy_file", copied)
    monkeypatch.setattr(room_module, "free_space", lambda _: 3 << 20)
    for number, size in enumerate(sizes):
        (here / f"{number}").write_bytes(os.urandom(size))
    with HostCache() as cache:
        cache.fetch_missing(plan([Mirror("*")], here))
        with opened(cache.root / INDEX) as index:
            assert index.rooms() == []
    assert rooms == [[40_000]] * len(sizes)


@pytest.mark.parametrize("permissions", [0o644, 0o755, 0o400, 0o711, 0o666])
def test_a_second_use_fetches_nothing(here: Path, folder: Path, permissions: int) -> None:
    (here / "a").write_text("content")
    (here / "a").chmod(permissions)
    assert fetched(here / "a", folder / "first") == 1
    assert fetched(here / "a", folder / "second") == 0
    assert (folder / "first").read_text() == "content"
    assert (folder / "first").stat().st_ino == (folder / "second").stat().st_ino


def test_links_are_read_only_and_keep_time_and_execution(here: Path, folder: Path) -> None:
    (here / "a").write_text("x")
    (here / "a").chmod(0o755)
    os.utime(here / "a", ns=(1, 1_600_000_000_123_456_789))
    fetched(here / "a", folder / "a")
    status = (folder / "a").stat()
    assert status.st_mode & 0o777 == 0o555
    assert status.st_mtime_ns == 1_600_000_000_123_456_789


LINK = """
    import sys
    from pathlib import Path
    from encamp.storage.cache.cache import HostCache
    from encamp.storage.inputs.mirror import Mirror, plan
    source, number = Path(sys.argv[1]), int(sys.argv[2])
    items = plan([Mirror("*")], source)
    print("ready", flush=True)
    sys.stdin.readline()
    with HostCache() as cache:
        for item in items[number:] + items[:number]:
            assert cache.get(item).read_bytes() == (source / item.target).read_bytes()
        print(cache.files, cache.bytes)
"""


def test_many_processes_at_once_fetch_each_file_once(here: Path) -> None:
    """From nothing: also the cache's own folders and index are made by all of them at once."""
    files = 6
    for number in range(files):
        (here / f"{number}").write_bytes(os.urandom(400_000))
    processes = [start(LINK, here, number, stdin=-1) for number in range(files)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [[int(word) for word in finish(process).split()] for process in processes]
    assert sum(count[0] for count in counts) == files
    assert sum(count[1] for count in counts) == files * 400_000
    assert len(entries()) == files


OPENING = """
    import sys, time
    from pathlib import Path
    from encamp.storage.cache.index import opened
    folder, start = Path(sys.argv[1]), float(sys.argv[2])
    for number in range(150):
        time.sleep(max(0.0, start + number * 0.02 - time.time()))
        with opened(folder / str(number)) as index:
            index.record("source", "opened", "")
"""


def test_many_processes_at_once_make_an_index_and_lose_no_note(tmp_path: Path) -> None:
    """All begin with each of 150 at the same time, by the clock."""
    begin = time.time() + 1
    for process in [start(OPENING, tmp_path, begin) for _ in range(4)]:
        finish(process)
    for number in range(150):
        with opened(tmp_path / str(number)) as index:
            assert len(index.events("source")) == 4


SLOW = """
    import sys
    from pathlib import Path
    from encamp.storage.cache import cache
    from encamp.storage.inputs.mirror import Mirror, plan
    real = cache.copy_file
    def slow(*args, **options):
        print("fetching", flush=True)
        sys.stdin.readline()
        real(*args, **options)
    cache.copy_file = slow
    (item,) = plan([Mirror("a")], Path(sys.argv[1]))
    cache.HostCache().get(item)
"""

WAITING = """
    import os, sys
    from pathlib import Path
    from encamp.storage.cache.cache import HostCache
    from encamp.storage.inputs.mirror import Mirror, plan
    source = Path(sys.argv[1])
    opened = []
    real = os.open
    def counted(path, *args, **options):
        opened.append(str(path))
        return real(path, *args, **options)
    (item,) = plan([Mirror("a")], source)
    os.open = counted
    cache = HostCache()
    print("getting", flush=True)
    assert cache.get(item).read_bytes() == bytes(1000)
    print(cache.files, opened.count(str(source / "a")))
"""


def test_second_process_waits_for_fetch_and_reads_no_source(here: Path) -> None:
    (here / "a").write_bytes(bytes(1000))
    slow = start(SLOW, here, stdin=-1)
    assert slow.stdout is not None
    assert slow.stdout.readline() == "fetching\n"
    waiting = start(WAITING, here)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "getting\n"
    wait_until(lambda: _waits_for_a_lock(waiting.pid), "the second process waits")
    assert slow.stdin is not None
    slow.stdin.write("go\n")
    slow.stdin.flush()
    finish(slow)
    assert finish(waiting) == "0 0\n"


def _waits_for_a_lock(pid: int) -> bool:
    """Whether it sleeps in fcntl, by the kernel's list of blocked locks, see proc(5)."""
    lines = Path("/proc/locks").read_text().splitlines()
    blocked = any("->" in line and "OFDLCK" in line for line in lines)
    return blocked and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replace(path: Path) -> None:
    before = path.stat()
    path.with_name("new").write_text("CONTENT")
    os.utime(path.with_name("new"), ns=(0, before.st_mtime_ns))
    path.with_name("new").rename(path)


def lengthen(path: Path) -> None:
    before = path.stat()
    path.write_text("more content")
    os.utime(path, ns=(0, before.st_mtime_ns))


def make_executable(path: Path) -> None:
    path.chmod(0o755)


@pytest.mark.parametrize("change", [touch, replace, lengthen, make_executable])
def test_a_changed_file_is_another_entry(
    change: Callable[[Path], None], here: Path, folder: Path
) -> None:
    (here / "a").write_text("content")
    (here / "a").chmod(0o644)
    fetched(here / "a", folder / "first")
    before = (folder / "first").read_text()
    change(here / "a")
    assert fetched(here / "a", folder / "second") == 1
    assert (folder / "second").read_text() == (here / "a").read_text()
    assert (folder / "second").stat().st_mode & 0o111 == (here / "a").stat().st_mode & 0o111
    assert (folder / "first").read_text() == before


def test_least_recently_used_is_evicted_first(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "3500")
    for name in "abcd":
        (here / name).write_bytes(os.urandom(1000))
    for number, name in enumerate("abcad"):
        fetched(here / name, folder / str(number))
        (folder / str(number)).unlink()
    again = {name: fetched(here / name, folder / f"again {name}") for name in "acd"}
    assert again == {"a": 0, "c": 0, "d": 0}
    assert fetched(here / "b", folder / "again b") == 1


def test_the_cache_stays_below_its_limit(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "5000")
    for number in range(20):
        (here / str(number)).write_bytes(os.urandom(1000))
        fetched(here / str(number), folder / str(number))
        (folder / str(number)).unlink()
        assert sum(entry.stat().st_size for entry in entries()) <= 5000


def test_no_more_is_evicted_than_the_limit_asks_for(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "3000")
    for name in "abcd":
        (here / name).write_bytes(os.urandom(1000))
        fetched(here / name, folder / name)
        (folder / name).unlink()
    assert {name: fetched(here / name, folder / name) for name in "bcd"} == {"b": 0, "c": 0, "d": 0}


def test_linked_entries_are_not_evicted(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "2500")
    for name in "abcd":
        (here / name).write_bytes(os.urandom(1000))
        fetched(here / name, folder / name)
        if name != "a":
            (folder / name).unlink()
    assert fetched(here / "a", folder / "again a") == 0
    assert fetched(here / "b", folder / "again b") == 1


def test_a_file_larger_than_the_limit_is_brought_all_the_same(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "10")
    (here / "a").write_bytes(bytes(1000))
    fetched(here / "a", folder / "a")
    assert (folder / "a").read_bytes() == bytes(1000)


@pytest.mark.parametrize("limit", ["much", "-1", "1e9", "10 XB"])
def test_a_limit_that_is_no_number_is_refused_in_one_sentence(
    limit: str, here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, limit)
    (here / "a").touch()
    with pytest.raises(BadJob, match=limit) as caught:
        fetched(here / "a", folder / "a")
    assert LIMIT in str(caught.value)


EVICTING = """
    import sys
    from pathlib import Path
    import encamp
    source, number = Path(sys.argv[1]), int(sys.argv[2])
    names = sorted(path.name for path in source.iterdir())
    for turn in range(20):
        name = names[(turn * (number + 1)) % len(names)]
        readonly = bool(turn % 2)
        with encamp.sandbox(encamp.Mirror(f"{source}/{name}", readonly=readonly)) as folder:
            assert (folder / name).read_bytes() == (source / name).read_bytes()
"""


def test_eviction_by_others_never_takes_a_file_from_under_a_task(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "1500")
    for number in range(4):
        (here / f"{number}").write_bytes(os.urandom(1000))
    for process in [start(EVICTING, here, number) for number in range(4)]:
        finish(process)


def test_entry_lost_between_fetch_and_link_is_refetched(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("content")
    real = os.link
    calls = []

    def link(entry: str, target: str, **options: object) -> None:
        calls.append(target)
        if len(calls) == 1:
            Path(entry).unlink()
        real(entry, target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link)
    with placed([planned(here / "a")]) as sandbox:
        assert (sandbox.folder / "a").read_text() == "content"
    assert len(calls) == 2


STUCK = """
    import os, sys, time
    from pathlib import Path
    from encamp.storage.disk import copy_file
    from encamp.storage.cache.cache import HostCache
    from encamp.storage.inputs.mirror import Mirror, plan
    def stuck(reader, writer, size, start):
        os.write(writer, b"half")
        print("writing", flush=True)
        time.sleep(600)
    copy_file._copy_bytes = stuck
    (item,) = plan([Mirror("a", readonly=True)], Path(sys.argv[1]))
    HostCache().get(item)
"""


def killed_fetch(here: Path) -> None:
    (here / "a").write_bytes(bytes(1000))
    process = start(STUCK, here)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [path.read_bytes() for path in half_entries()] == [b"half"]


def test_leftovers_of_killed_fetch_are_harmless(here: Path, folder: Path) -> None:
    killed_fetch(here)
    assert fetched(here / "a", folder / "a") == 1
    assert (folder / "a").read_bytes() == bytes(1000)
    assert half_entries() == []


def test_leftovers_of_killed_fetch_are_removed_by_next_sandbox(here: Path) -> None:
    """Its source may never come again."""
    killed_fetch(here)
    run("import encamp\nwith encamp.sandbox(): pass")
    assert half_entries() == []


def test_tidying_leaves_running_fetch_alone(here: Path) -> None:
    (here / "a").write_bytes(bytes(1000))
    process = start(STUCK, here)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    run("import encamp\nwith encamp.sandbox(): pass")
    assert len(half_entries()) == 1
    process.kill()
    process.communicate()


def test_the_place_of_a_fetch_that_failed_is_free(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("content")

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("encamp.storage.disk.copy_file._copy_bytes", full)
        with pytest.raises(DiskFull):
            fetched(here / "a", folder / "a")
    assert entries() == half_entries() == []
    assert fetched(here / "a", folder / "a") == 1


def test_process_forked_during_fetch_blocks_no_other(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with exclusive(tmp_path / "locks", "key"):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(reader)
    try:
        lock = KeyLock(tmp_path / "locks", "key")
        assert lock.take_if_free()
        lock.close()
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def write_to(path: Path) -> None:
    path.chmod(0o644)
    path.write_text("damaged")


def same_size(path: Path) -> None:
    path.chmod(0o644)
    path.write_text("CONTENT")
    path.chmod(0o444)


@pytest.mark.parametrize("damage", [write_to, same_size])
def test_task_damaging_shared_input_fails_and_input_is_refetched(
    damage: Callable[[Path], None], here: Path
) -> None:
    (here / "a").write_text("content")
    shared = Mirror("a", readonly=True)
    with pytest.raises(InputDamaged) as caught, sandbox(shared, name="culprit") as folder:
        damage(folder / "a")
    assert caught.value.path == "a"
    assert "culprit" in str(caught.value)
    with sandbox(Mirror("a", readonly=True)) as folder:
        assert (folder / "a").read_text() == "content"
    assert (here / "a").read_text() == "content"


@pytest.mark.parametrize("damage", [write_to, same_size])
def test_damage_by_a_task_that_was_never_checked_is_found_at_the_next_link(
    damage: Callable[[Path], None], here: Path, folder: Path
) -> None:
    """It may have failed or been killed before anybody looked."""
    (here / "a").write_text("content")
    fetched(here / "a", folder / "first")
    damage(folder / "first")
    assert fetched(here / "a", folder / "second") == 1
    assert (folder / "second").read_text() == "content"
    assert fetched(here / "a", folder / "third") == 0


def test_entry_damaged_by_power_loss_is_refetched(here: Path, folder: Path) -> None:
    (here / "a").write_text("content")
    fetched(here / "a", folder / "first")
    entries()[0].chmod(0o644)
    os.truncate(entries()[0], 0)
    entries()[0].chmod(0o444)
    fetched(here / "a", folder / "second")
    assert (folder / "second").read_text() == "content"


def test_replacing_a_shared_input_by_a_file_of_the_tasks_own_is_no_damage(here: Path) -> None:
    (here / "a").write_text("content")
    with sandbox(Mirror("a", readonly=True)) as folder:
        (folder / "a").unlink()
        (folder / "a").write_text("mine")
    with sandbox(Mirror("a", readonly=True)) as folder:
        (folder / "a").unlink()


def test_a_disk_without_links_gets_copies(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*args: object, **options: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", no_link)
    (here / "tree").mkdir()
    (here / "tree/a").write_text("content")
    (here / "a").write_text("content")
    for brought in (14, 0):
        items = plan([Mirror("*", readonly=True)], here)
        with placed(items) as sandbox:
            assert sandbox.brought == brought
            assert (sandbox.folder / "a").read_text() == "content"
            assert (sandbox.folder / "tree/a").read_text() == "content"


ASKING = """
    import sys
    from encamp.storage.cache.cache import HostCache
    with HostCache() as cache, cache.room.reserved(int(sys.argv[1]), "most of the disk"):
        print("asked", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("ends", ["well", "killed"])
def test_room_that_another_process_asked_for_is_kept_while_that_lives(ends: str) -> None:
    """Two that want more than half of the disk each do not both get it."""
    most = int(free_space(local_storage()) * 0.6)
    other = start(ASKING, most, stdin=-1)
    assert other.stdout is not None
    assert other.stdout.readline() == "asked\n"
    with HostCache() as cache:
        with pytest.raises(DiskFull), cache.room.reserved(most, "as much"):
            pass
        if ends == "killed":
            other.kill()
            other.communicate()
        else:
            finish(other)
        with cache.room.reserved(most, "as much"):
            pass
        with opened(cache.root / INDEX) as index:
            assert index.rooms() == []


def rooms() -> list[tuple[str, int]]:
    with opened(local_storage() / "cache" / INDEX) as index:
        return index.rooms()


def test_room_is_given_back_when_the_work_with_it_fails() -> None:
    with HostCache() as cache:
        with suppress(KeyError), cache.room.reserved(1000, "something"):
            assert [size for _, size in rooms()] == [1000]
            raise KeyError
        assert rooms() == []


@pytest.mark.parametrize("owner", ["nobody", "{}", '{"pid": 0}'])
def test_room_of_an_owner_that_cannot_be_read_is_not_kept(owner: str) -> None:
    with HostCache() as cache:
        with opened(cache.root / INDEX) as index:
            index.ask_room(owner, 1 << 60)
        with cache.room.reserved(1000, "something"):
            assert [size for _, size in rooms()] == [1000]


def test_some_of_the_disk_is_always_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 100 << 20
    monkeypatch.setattr(room_module, "free_space", lambda _: free)
    with HostCache() as cache:
        with cache.room.reserved(free - (1 << 20), "nearly all"):
            pass
        with pytest.raises(DiskFull), cache.room.reserved(free - (1 << 20) + 1, "a byte more"):
            pass


def test_unfetchable_tree_is_not_used(here: Path) -> None:
    """Its entry may be fetched again, or evicted, while the same cache is still open."""
    (here / "tree").mkdir()
    (here / "tree/a").write_text("as planned")
    item = planned(here / "tree")
    (here / "tree/a").write_text("changed meanwhile")
    with HostCache() as cache:
        with pytest.raises(SourceChanged):
            cache.get(item)
        lock = KeyLock(local_storage() / "cache/locks", cache.place_of(item).name)
        assert lock.take_if_free()
        lock.close()


@pytest.mark.parametrize("harm", [b"this is no database" * 100, b""])
def test_a_damaged_or_lost_index_costs_nothing_but_itself(
    harm: bytes, here: Path, folder: Path
) -> None:
    (here / "a").write_text("content")
    (here / "b").write_text("content")
    fetched(here / "a", folder / "a")
    for path in (local_storage() / "cache").glob(f"{INDEX}*"):
        path.write_bytes(harm) if path.name == INDEX else path.unlink()
    assert fetched(here / "a", folder / "again") == 0
    assert fetched(here / "b", folder / "b") == 1
    with HostCache() as cache:
        assert len(cache.rows()) == 2


def test_entries_before_index_loss_count_for_limit(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (here / name).write_bytes(os.urandom(1000))
    fetched(here / "a", folder / "a")
    (folder / "a").unlink()
    (local_storage() / "cache" / INDEX).unlink()
    monkeypatch.setenv(LIMIT, "1500")
    fetched(here / "b", folder / "b")
    assert [entry.stat().st_size for entry in entries()] == [1000]


def test_change_is_compared_with_last_fetched_state(here: Path, folder: Path) -> None:
    for text in ("a", "bb", "ccc"):
        (here / "a").write_text(text)
        fetched(here / "a", folder / text)
    with HostCache() as cache:
        why = cache.events(str(here / "a"))[-1].why
    assert why.startswith("it changed: 2 bytes")
    assert "now 3 bytes" in why


def test_clearing_says_how_much_it_frees_and_leaves_links_alone(here: Path, folder: Path) -> None:
    (here / "a").write_bytes(bytes(1000))
    fetched(here / "a", folder / "a")
    assert clear_cache(dry_run=True) == 1000
    assert len(entries()) == 1
    assert clear_cache() == 1000
    assert entries() == []
    assert (folder / "a").read_bytes() == bytes(1000)
    assert clear_cache() == 0
    assert fetched(here / "a", folder / "again") == 1


def test_read_only_tree_is_linked_and_counted_once(here: Path) -> None:
    (here / "tree/deep").mkdir(parents=True)
    (here / "tree/deep/a").write_text("a")
    (here / "tree/link").symlink_to("deep/a")
    items = plan([Mirror("tree", mode="link")], here)
    inodes = set()
    for brought in (1, 0):
        with placed(items) as sandbox:
            assert sandbox.brought == brought
            assert os.readlink(sandbox.folder / "tree/link") == "deep/a"
            inodes.add((sandbox.folder / "tree/deep/a").stat().st_ino)
            sandbox.check_inputs("name")
    assert len(inodes) == 1
