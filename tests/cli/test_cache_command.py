"""``encamp cache``: its lists, histories and explanations."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from console_command import as_ordinary_user, encamp

from encamp.errors import DiskFull, InputDamaged
from encamp.storage.cache.cache import HostCache
from encamp.storage.cache.room import LIMIT
from encamp.storage.inputs.mirror import Mirror, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.sandbox import sandbox

WHEN = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)


@pytest.fixture
def data(here: Path) -> Path:
    (here / "model.lib").write_bytes(bytes(5000))
    (here / "tree").mkdir()
    for number in range(3):
        (here / f"tree/{number}").write_bytes(bytes(2048))
    return here


def use(*mirrors: str | Mirror) -> None:
    with sandbox(list(mirrors)):
        pass


def cache_output(*words: str | Path) -> str:
    ended = encamp("cache", *words)
    assert (ended.status, ended.err) == (0, ""), ended
    return ended.out


def entries() -> list[Path]:
    found = [(local_storage() / "cache" / kind).glob("*/*") for kind in ("files", "trees")]
    return [entry for kind in found for entry in kind]


# list


def test_empty_cache_is_reported(here: Path) -> None:
    assert re.fullmatch(r"0 entries, 0 B of at most [\d.]+ [GT]iB\n", cache_output("list"))


def test_single_entry_is_reported_in_singular(data: Path) -> None:
    (data / "small").mkdir()
    (data / "small/only").write_bytes(b"x")
    use("small")
    assert re.search(r"     1 file  .*/small\n1 entry, 1 B of", cache_output("list"))


def test_entries_are_listed_by_use_with_size_kind_and_source(data: Path) -> None:
    use("model.lib")
    use("tree")
    heading, first, second, total = cache_output("list").splitlines()
    assert heading.split() == ["last", "used", "size", "kind", "source"]
    assert heading.index("source") == first.index(str(data))
    assert re.fullmatch(rf"{WHEN} +4\.9 KiB +file +{data}/model\.lib", first)
    assert re.fullmatch(rf"{WHEN} +6\.0 KiB +3 files +{data}/tree", second)
    assert re.fullmatch(r"2 entries, 10\.9 KiB of at most [\d.]+ [GT]iB", total)
    use("model.lib")
    assert [line.rpartition("/")[2] for line in cache_output("list").splitlines()[1:3]] == [
        "tree", "model.lib",
    ]  # fmt: skip


def test_the_limit_is_the_users(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1.5 GiB")
    assert cache_output("list") == "0 entries, 0 B of at most 1.5 GiB\n"
    monkeypatch.setenv(LIMIT, "plenty")
    encamp("cache", "list").check_refused(LIMIT, "'plenty'", "20 GiB")


# why


def test_unused_input_shows_its_mode(data: Path) -> None:
    lines = cache_output("why", "model.lib").splitlines()
    assert lines[0] == f"{data}/model.lib: 4.9 KiB (5000 bytes)"
    assert lines[1] == "  is not in the cache in its present state"
    assert re.fullmatch(r"  mode as a task's own input: (copy|reflink) \(.+\)", lines[2])
    assert re.fullmatch(
        r"  mode as a job input, or if declared read-only: (link|reflink) \(.+\)", lines[3]
    )
    assert len(lines) == 4


def test_first_and_last_use_are_shown(data: Path) -> None:
    use("model.lib")
    lines = cache_output("why", "model.lib").splitlines()
    assert lines[1] == "  is in the cache"
    state = r"5000 bytes, permissions \d+, changed [^;]+"
    assert re.fullmatch(rf"  {WHEN}  entry of {state}; last used {WHEN}", lines[4])
    assert re.fullmatch(rf"  {WHEN}  fetched: first use on this host", lines[5])


def test_tree_is_shown_with_number_of_files(data: Path) -> None:
    use("tree")
    out = cache_output("why", "tree")
    assert f"{data}/tree: 3 files, 6.0 KiB (6144 bytes)\n" in out
    assert "fetched: first use on this host" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(bytes(6000)), "5000 bytes, .*; now 6000 bytes, "),
        (
            lambda path: os.utime(path, (0, 1_600_000_000)),
            r"; now 5000 bytes, .*changed 2020-09-1\d \d\d:26:40\.000000000$",
        ),
        (
            lambda path: path.chmod(0o755),
            "5000 bytes, permissions 644, .*; now 5000 bytes, permissions 755, ",
        ),
        (lambda path: _replace(path), "a different file or folder with the same size"),
    ],
)
def test_a_changed_file_says_what_changed(change: object, words: str, data: Path) -> None:
    (data / "model.lib").chmod(0o644)
    use("model.lib")
    change(data / "model.lib")  # type: ignore[operator]
    assert "is not in the cache in its present state" in cache_output("why", "model.lib")
    use("model.lib")
    out = cache_output("why", "model.lib")
    assert "fetched: it changed" in out
    assert re.search(words, next(line for line in out.splitlines() if "it changed" in line))


def _replace(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    before = path.stat()
    path.with_name("new").write_bytes(bytes(reversed(path.read_bytes())))
    path.with_name("new").chmod(before.st_mode & 0o777)
    os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_name("new").rename(path)


def test_a_file_in_a_tree_that_changed_says_so(data: Path) -> None:
    use("tree")
    (data / "tree/1").write_bytes(bytes(100))
    (data / "tree/3").write_bytes(bytes(10))
    use("tree")
    (line,) = [line for line in cache_output("why", "tree").splitlines() if "it changed" in line]
    assert re.search("3 files, 6144 bytes, .*; now 4 files, 4206 bytes, ", line)


def test_eviction_shows_its_reason(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use("model.lib")
    (data / "other").write_bytes(bytes(8000))
    monkeypatch.setenv(LIMIT, "9000")
    use("other")
    out = cache_output("why", "model.lib")
    assert re.search(rf"{WHEN}  evicted: room for the cache's limit\n", out)
    use("model.lib")
    assert "fetched: it was evicted: room for the cache's limit" in cache_output("why", "model.lib")


def test_a_damaged_entry_says_that_a_task_wrote_to_it(data: Path) -> None:
    def block() -> None:
        with sandbox(Mirror("model.lib", mode="link")) as folder:
            (folder / "model.lib").chmod(0o600)
            (folder / "model.lib").write_text("damaged")

    with pytest.raises(InputDamaged):
        block()
    assert "a task wrote to it" in cache_output("why", "model.lib")
    use(Mirror("model.lib", mode="link"))
    assert re.search("fetched: .*a task wrote to it", cache_output("why", "model.lib"))


def test_two_kinds_of_use_say_why_there_are_two_entries(data: Path) -> None:
    use("model.lib")
    use(Mirror("model.lib", mode="link"))
    out = cache_output("why", "model.lib")
    assert "fetched: it is needed read-only, too" in out
    assert out.count("  entry of ") == 2


def test_refusal_shows_its_reason(data: Path) -> None:
    """What has no room says what it needed and what was free."""
    (item,) = plan([Mirror("model.lib")], data)
    with (
        HostCache() as cache,
        pytest.raises(DiskFull),
        cache.room.reserved(10**18, item.name),
    ):
        pytest.fail("no disk is that large")
    assert re.search(
        r"refused: 909494.7 TiB are needed, \S+ [GT]iB are free", cache_output("why", "model.lib")
    )


def test_removed_file_keeps_its_history(data: Path) -> None:
    use("model.lib")
    (data / "model.lib").unlink()
    out = cache_output("why", "model.lib")
    assert out.startswith(f"{data}/model.lib: does not exist now\n")
    assert "entry of 5000 bytes" in out
    assert "fetched: first use on this host" in out


def test_unknown_file_is_refused(here: Path) -> None:
    encamp("cache", "why", "none").check_refused("none", "does not exist", "never held it")


def test_a_pattern_tells_of_each_file(data: Path) -> None:
    """Otherwise the second would stand there without its past."""
    use("tree/0", "tree/1")
    out = cache_output("why", "tree/*")
    assert re.findall(rf"^{data}/tree/(\d)", out, re.MULTILINE) == ["0", "1", "2"]
    assert out.count("fetched: first use on this host") == 2


def test_odd_names_stay_on_their_lines(here: Path) -> None:
    names = [b"line\nend", b"caf\xe9", b"two words"]
    for name in names:
        (here / os.fsdecode(name)).write_text("x")
        use(Mirror(os.fsdecode(name)))
    assert len(cache_output("list").splitlines()) == len(names) + 2  # a heading and a sum
    for name in names:
        out = cache_output("why", os.fsdecode(name))
        assert "is in the cache" in out
        assert "fetched: first use on this host" in out


def test_looking_makes_no_entry_and_uses_none(data: Path) -> None:
    use("model.lib")
    before = cache_output("list")
    cache_output("why", "model.lib")
    cache_output("why", "tree")
    assert cache_output("list") == before
    assert len(entries()) == 1


# clear


def test_clearing_says_how_much_and_a_dry_run_removes_nothing(data: Path) -> None:
    use("model.lib", "tree")
    assert cache_output("clear", "--dry-run") == "would remove 10.9 KiB\n"
    assert len(entries()) == 2
    assert cache_output("clear") == "removed 10.9 KiB\n"
    assert entries() == []
    assert cache_output("list").startswith("0 entries, 0 B")
    assert cache_output("clear") == "removed 0 B\n"


def test_clearing_is_in_history(data: Path) -> None:
    use("model.lib")
    cache_output("clear")
    assert "evicted: the cache was cleared" in cache_output("why", "model.lib")
    use("model.lib")
    assert "fetched: it was evicted: the cache was cleared" in cache_output("why", "model.lib")


def test_a_tree_in_use_stays(data: Path) -> None:
    for number in range(40):
        (data / f"tree/more-{number}").write_text("x")
    with sandbox(Mirror("tree")) as folder:
        before = sorted(path.name for path in (folder / "tree").iterdir())
        assert cache_output("clear") == "removed 0 B\n"
        assert sorted(path.name for path in (folder / "tree").iterdir()) == before
    assert cache_output("clear") != "removed 0 B\n"


def test_clearing_where_nothing_ever_ran_makes_nothing(local_storage_base: Path) -> None:
    assert cache_output("clear") == "removed 0 B\n"
    assert list(local_storage_base.iterdir()) == []


def test_a_local_storage_that_cannot_be_used_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLEL_LOCAL_STORAGE", "relative")
    for words in (["list"], ["clear"]):
        encamp("cache", *words).check_refused("local storage", "not an absolute path")


def test_an_unreadable_input_is_refused(here: Path) -> None:
    (here / "secret").touch(mode=0)
    ended = encamp("cache", "why", "secret", by=as_ordinary_user())
    ended.check_refused("secret", "permission denied")


def test_why_sees_job_inputs_that_are_there(data: Path) -> None:
    """They have an entry of their own, which is read-only."""
    use(Mirror("model.lib", readonly=True))
    assert "  is in the cache, read-only, as job inputs are\n" in cache_output("why", "model.lib")
    use(Mirror("model.lib", mode="copy"))
    assert (
        "  is in the cache twice: read-only (for job inputs), and with its own permissions\n"
    ) in cache_output("why", "model.lib")


def test_why_ignores_partly_removed_entry(data: Path) -> None:
    use("tree")
    next((local_storage() / "cache/trees").glob("*/*/tree/1")).unlink()
    assert "  is not in the cache in its present state\n" in cache_output("why", "tree")
