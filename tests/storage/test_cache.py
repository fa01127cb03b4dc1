"""The host cache: each file is fetched once, found again, bounded, and beyond a task's harm."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from other_processes import finish, start, wait_until

from encamp.errors import BadJob, DiskFull, InputDamaged, SourceChanged
from encamp.storage.cache import INDEX, LIMIT, HostCache, clear_cache
from encamp.storage.mirror import as_mirrors, plan
from encamp.storage.place import Placed, damaged, place
from encamp.storage.roots import local_storage
from encamp.storage.sandbox import sandbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "task folder"
    path.mkdir()
    return path


def entries() -> list[Path]:
    return sorted((local_storage() / "cache/files").glob("*/*"))


def size_and_time(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def fetched(source: Path, place: Path) -> int:
    """Link ``source`` to ``place``; returns how many files that brought to the host."""
    place.parent.mkdir(exist_ok=True)
    with HostCache() as cache:
        cache.link(source, place, size_and_time(source))
        return cache.files


def test_a_second_use_fetches_nothing(here: Path, folder: Path) -> None:
    (here / "a").write_text("content")
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
    from encamp.storage.cache import HostCache
    source, folder, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    expected = {path: path.stat() for path in sorted(source.iterdir())}
    print("ready", flush=True)
    sys.stdin.readline()
    with HostCache() as cache:
        for path, status in list(expected.items())[number:] + list(expected.items())[:number]:
            target = folder / f"{path.name}.{number}"
            cache.link(path, target, (status.st_size, status.st_mtime_ns))
            assert target.read_bytes() == path.read_bytes()
        print(cache.files, cache.bytes)
"""


def test_many_processes_at_once_fetch_each_file_once(here: Path, folder: Path) -> None:
    """From nothing: also the cache's own folders and index are made by all of them at once."""
    files = 6
    for number in range(files):
        (here / f"{number}").write_bytes(os.urandom(400_000))
    processes = [start(LINK, here, folder, number, stdin=-1) for number in range(files)]
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


def test_one_waits_for_another_that_fetches_and_then_opens_no_source(
    here: Path, folder: Path
) -> None:
    """The slow source is opened for reading once, as counted by the opens of it."""
    (here / "a").write_bytes(bytes(1000))
    slow = start(
        """
        import os, sys, time
        from pathlib import Path
        from encamp.storage import cache
        source, target = map(Path, sys.argv[1:])
        real = cache.copy_file
        def slow(*args, **options):
            print("fetching", flush=True)
            sys.stdin.readline()
            real(*args, **options)
        cache.copy_file = slow
        status = source.stat()
        cache.HostCache().link(source, target, (status.st_size, status.st_mtime_ns))
        """,
        here / "a",
        folder / "one",
        stdin=-1,
    )
    assert slow.stdout is not None
    assert slow.stdout.readline() == "fetching\n"
    waiting = start(
        """
        import os, sys
        from pathlib import Path
        from encamp.storage.cache import HostCache
        source, target = map(Path, sys.argv[1:])
        opened = []
        real = os.open
        def counted(path, *args, **options):
            opened.append(str(path))
            return real(path, *args, **options)
        os.open = counted
        status = source.stat()
        cache = HostCache()
        print("linking", flush=True)
        cache.link(source, target, (status.st_size, status.st_mtime_ns))
        print(cache.files, opened.count(str(source)))
        """,
        here / "a",
        folder / "two",
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "linking\n"
    wait_until(lambda: _waits_for_a_lock(waiting.pid), "the second process waits")
    assert slow.stdin is not None
    slow.stdin.write("go\n")
    slow.stdin.flush()
    finish(slow)
    assert finish(waiting) == "0 0\n"
    assert (folder / "two").read_bytes() == bytes(1000)


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


def test_a_file_that_changed_since_the_plan_is_not_even_fetched(here: Path, folder: Path) -> None:
    (here / "a").write_text("content")
    expected = size_and_time(here / "a")
    touch(here / "a")
    with HostCache() as cache, pytest.raises(SourceChanged):
        cache.link(here / "a", folder / "a", expected)
    assert entries() == []


def test_the_least_recently_used_goes_first(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "3500")
    for name in "abcd":
        (here / name).write_bytes(os.urandom(1000))
    for number, name in enumerate("abcad"):
        fetched(here / name, folder / str(number))
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
        assert sum(entry.stat().st_size for entry in entries()) <= 5000
    assert len(list(folder.iterdir())) == 20, "tasks keep what was evicted"


def test_a_file_larger_than_the_limit_is_brought_all_the_same(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "10")
    (here / "a").write_bytes(bytes(1000))
    fetched(here / "a", folder / "a")
    assert (folder / "a").read_bytes() == bytes(1000)


@pytest.mark.parametrize("limit", ["10GB", "-1", "1e9"])
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
    from encamp.storage.cache import HostCache
    source, folder, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    files = sorted(source.iterdir())
    for turn in range(30):
        path = files[(turn * (number + 1)) % len(files)]
        target = folder / f"{number}.{turn}"
        status = path.stat()
        with HostCache() as cache:
            cache.link(path, target, (status.st_size, status.st_mtime_ns))
        assert target.read_bytes() == path.read_bytes()
"""


def test_eviction_by_others_never_takes_a_file_from_under_a_link(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "1500")
    for number in range(4):
        (here / f"{number}").write_bytes(os.urandom(1000))
    for process in [start(EVICTING, here, folder, number) for number in range(4)]:
        finish(process)


def test_an_entry_that_goes_between_fetch_and_link_is_fetched_again(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("content")
    real = os.link
    calls = []

    def link(entry: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 1:
            entry.unlink()
        real(entry, target)

    monkeypatch.setattr(os, "link", link)
    assert fetched(here / "a", folder / "a") == 2
    assert (folder / "a").read_text() == "content"


def test_what_a_killed_fetch_left_is_harmless_and_goes(here: Path, folder: Path) -> None:
    (here / "a").write_bytes(bytes(1000))
    process = start(
        """
        import os, sys, time
        from pathlib import Path
        from encamp.storage import copy
        from encamp.storage.cache import HostCache
        def stuck(reader, writer, size):
            os.write(writer, b"half")
            print("writing", flush=True)
            time.sleep(600)
        copy._copy_bytes = stuck
        status = Path(sys.argv[1]).stat()
        expected = status.st_size, status.st_mtime_ns
        HostCache().link(Path(sys.argv[1]), Path(sys.argv[2]), expected)
        """,
        here / "a",
        folder / "never",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = entries()
    assert [entry.read_bytes() for entry in left] == [b"half"]
    assert fetched(here / "a", folder / "a") == 1
    assert (folder / "a").read_bytes() == bytes(1000)
    assert [entry.read_bytes() for entry in entries()] == [bytes(1000)]


def test_what_a_killed_fetch_left_counts_and_is_evicted(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source may never come again."""
    (here / "a").write_bytes(bytes(1000))
    (here / "b").write_bytes(bytes(1000))
    fetched(here / "a", folder / "a")
    entries()[0].rename(entries()[0].with_name(entries()[0].name + ".part"))
    monkeypatch.setenv(LIMIT, "1500")
    fetched(here / "b", folder / "b")
    assert not [entry for entry in entries() if entry.suffix == ".part"]


def test_the_place_of_a_fetch_that_failed_is_free(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a").write_text("content")

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("encamp.storage.copy._copy_bytes", full)
        with pytest.raises(DiskFull):
            place(plan(as_mirrors("a"), here), folder, Placed(), HostCache())
    assert entries() == []
    assert fetched(here / "a", folder / "a") == 1


def test_a_process_forked_during_a_fetch_holds_up_nobody(here: Path, folder: Path) -> None:
    (here / "a").write_text("content")
    cache = HostCache()
    reader, writer = os.pipe()
    with cache._alone("0" * 40):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(reader)
    try:
        finish(
            start(
                "from encamp.storage.cache import HostCache\nwith HostCache()._alone('0'*40): pass"
            )
        )
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
def test_a_task_that_writes_to_a_shared_input_fails_and_the_next_gets_it_anew(
    damage: Callable[[Path], None], here: Path
) -> None:
    (here / "a").write_text("content")
    with pytest.raises(InputDamaged) as caught, sandbox(shared="a", name="culprit") as folder:
        damage(folder / "a")
    assert caught.value.path == "a"
    assert "culprit" in str(caught.value)
    with sandbox(shared="a") as folder:
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


def test_an_entry_that_lost_its_bytes_with_the_power_is_fetched_anew(
    here: Path, folder: Path
) -> None:
    (here / "a").write_text("content")
    fetched(here / "a", folder / "first")
    entries()[0].chmod(0o644)
    os.truncate(entries()[0], 0)
    entries()[0].chmod(0o444)
    fetched(here / "a", folder / "second")
    assert (folder / "second").read_text() == "content"


def test_replacing_a_shared_input_by_a_file_of_the_tasks_own_is_no_damage(here: Path) -> None:
    (here / "a").write_text("content")
    with sandbox(shared="a") as folder:
        (folder / "a").unlink()
        (folder / "a").write_text("mine")
    with sandbox(shared="a") as folder:
        (folder / "a").unlink()


def test_drop_forgets_the_entry_of_a_link_and_no_other(here: Path, folder: Path) -> None:
    for name in "ab":
        (here / name).write_text(name)
        fetched(here / name, folder / name)
    HostCache().drop(folder / "a")
    assert [entry.read_text() for entry in entries()] == ["b"]
    assert (folder / "a").read_text() == "a"


def test_a_disk_without_links_gets_read_only_copies(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*args: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", no_link)
    (here / "a").write_text("content")
    assert fetched(here / "a", folder / "a") == 1
    assert fetched(here / "a", folder / "b") == 0
    assert (folder / "b").read_text() == "content"
    assert not (folder / "b").stat().st_mode & 0o222
    assert (folder / "a").stat().st_ino != (folder / "b").stat().st_ino


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
    with sqlite3.connect(local_storage() / "cache" / INDEX) as index:
        assert index.execute("SELECT count(*) FROM entry").fetchone() == (2,)
    index.close()


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


def test_a_shared_tree_comes_as_links_and_is_counted_once(here: Path, tmp_path: Path) -> None:
    (here / "tree/deep").mkdir(parents=True)
    (here / "tree/deep/a").write_text("a")
    (here / "tree/link").symlink_to("deep/a")
    for turn in (0, 1):
        target = tmp_path / str(turn)
        target.mkdir()
        placed = Placed()
        with HostCache() as cache:
            place(plan(as_mirrors("tree"), here), target, placed, cache)
            assert cache.files == 1 - turn
        assert os.readlink(target / "tree/link") == "deep/a"
        assert list(placed.shared) == ["tree/deep/a"]
        assert damaged(target, placed) == []
