"""The index of the cache counts correctly, drops the oldest events, and lists entries in pages."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from encamp.storage.cache import index as module
from encamp.storage.cache.index import Index, Row, opened


def row(key: str, used: float = 1.0, *, size: int = 10, source: str = "/a") -> Row:
    return Row(key, "file", source, "state", size, 1, used, used)


def keys(rows: list[Row]) -> list[str]:
    return [row.key for row in rows]


def test_recorded_entry_counts_once_and_is_marked_used(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add(row("a", 1.0))
        index.add(row("b", 2.0, size=5))
        index.add(row("a", 3.0, size=99))
        assert index.total() == 15
        assert keys(list(index.oldest_first())) == ["b", "a"]
        assert next(index.oldest_first()).fetched == 2.0
        assert index.of_source("/a")[1].fetched == 1.0
        index.remove(["a", "nothing"])
        assert index.total() == 5
        index.remove(["b"])
        assert index.total() == 0


def _paged(index: Index, count: int) -> list[str]:
    found: list[str] = []
    last = None
    while page := index.next_oldest(last, count):
        assert len(page) <= count
        found += keys(page)
        last = page[-1]
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_pages_have_every_entry_once_also_of_those_used_at_the_same_time(
    tmp_path: Path, count: int
) -> None:
    with opened(tmp_path / "index") as index:
        for key, used in {"e": 2.0, "c": 1.0, "a": 2.0, "d": 0.0, "b": 1.0, "f": 2.0}.items():
            index.add(row(key, used))
        assert _paged(index, count) == ["d", "b", "c", "a", "e", "f"]
        assert keys(list(index.oldest_first()))[0] == "d"


def test_recently_used_entry_is_evicted_last(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        for number, key in enumerate("abc"):
            index.add(row(key, float(number)))
        index.used(["a"], 9.0)
        assert _paged(index, 2) == ["b", "c", "a"]


def test_the_oldest_events_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_KEPT", 5)
    with opened(tmp_path / "index") as index:
        for number in range(12):
            index.record(f"/{number % 2}", "fetched", str(number))
        whys = {source: [event.why for event in index.events(source)] for source in ("/0", "/1")}
    assert whys == {"/0": ["8", "10"], "/1": ["7", "9", "11"]}


def test_sources_are_separate_and_newest_first(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add(row("a", 1.0, source="/x"))
        index.add(row("b", 3.0, source="/x"))
        index.add(row("c", 2.0, source="/y"))
        assert keys(index.of_source("/x")) == ["b", "a"]
        assert keys(index.of_source("/none")) == []


def test_room_is_each_owners(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.ask_room("one", 5)
        index.ask_room("two", 7)
        index.ask_room("one", 1)
        index.give_room_back("one")
        assert index.rooms() == [("two", 7)]


def test_failed_transaction_is_rolled_back(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add(row("a"))
    with pytest.raises(ZeroDivisionError):
        _change_and_break(tmp_path / "index")
    with opened(tmp_path / "index") as index:
        assert not index.fresh
        assert keys(list(index.oldest_first())) == ["a"]


def _change_and_break(path: Path) -> None:
    with opened(path) as index:
        index.add(row("b"))
        index.remove(["a"])
        raise ZeroDivisionError


@pytest.mark.parametrize("beginning", [0, 100, 4096])
def test_an_index_that_a_power_cut_has_damaged_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: int
) -> None:
    _damaged(tmp_path / "index", beginning)
    monkeypatch.setattr(module, "boot_id", lambda: "the next boot")
    for fresh in (True, False):
        with opened(tmp_path / "index") as index:
            assert index.fresh == fresh
            index.add(row("new"))
            assert keys(list(index.oldest_first())) == ["new"]


def test_an_index_that_is_found_damaged_fails_once(tmp_path: Path) -> None:
    _damaged(tmp_path / "index", 4096)
    with pytest.raises(OSError, match="the cache's index: "), opened(tmp_path / "index") as index:
        list(index.oldest_first())
    with opened(tmp_path / "index") as index:
        assert index.fresh


def test_a_sound_index_outlives_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for boot in ("one", "two", ""):
        monkeypatch.setattr(module, "boot_id", lambda boot=boot: boot)
        with opened(tmp_path / "index") as index:
            assert index.fresh == (boot == "one")
            index.add(row(boot))
    with opened(tmp_path / "index") as index:
        assert sorted(keys(list(index.oldest_first()))) == ["", "one", "two"]


def test_an_index_that_lost_a_write_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order of the entries and the entries themselves contradict each other."""
    _stale(tmp_path / "found early")
    monkeypatch.setattr(module, "boot_id", lambda: "the next boot")
    with opened(tmp_path / "found early") as index:
        assert index.fresh


def test_a_contradiction_in_an_index_fails_once(tmp_path: Path) -> None:
    _stale(tmp_path / "found late")
    with (
        pytest.raises(OSError, match="the cache's index: "),
        opened(tmp_path / "found late") as index,
    ):
        index.remove(["0007"])
    with opened(tmp_path / "found late") as index:
        assert index.fresh


def test_an_unknown_source_is_filled_in(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add(row("a", 1.0, source=module.UNKNOWN))
        index.add(row("a", 2.0, source="/a"))
        index.add(row("a", 3.0, source="/b"))
        assert [(one.source, one.used) for one in index.oldest_first()] == [("/a", 3.0)]


def _stale(path: Path) -> None:
    """An index in which one page of the order by use has an earlier state."""
    with opened(path) as index:
        for number in range(5):
            index.add(row(f"{number:04}", float(number)))
    before = path.read_bytes()
    with opened(path) as index:
        for number in range(5, 9):
            index.add(row(f"{number:04}", float(number)))
        index.used([f"{number:04}" for number in range(5)], 100.0)
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'by_use'"
        ((page,),) = database.execute(query)
        ((size,),) = database.execute("PRAGMA page_size")
    begin, end = (page - 1) * size, page * size
    now = path.read_bytes()
    path.write_bytes(now[:begin] + before[begin:end] + now[end:])


def _damaged(path: Path, beginning: int) -> None:
    """An index whose bytes from ``beginning`` on are lost."""
    with opened(path) as index:
        for number in range(500):
            index.add(row(f"{number:04}", float(number)))
    whole = path.read_bytes()
    path.write_bytes(whole[:beginning] + b"\xff" * (len(whole) - beginning))
