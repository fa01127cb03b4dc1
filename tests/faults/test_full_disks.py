"""Disks of every size, from far too small to just enough: `DiskFull`, or a correct result."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from deeds import outputs_of
from forks import CHAOS, SEED, End, Step, forks, watched
from places import Place, make_place
from sealed import sealed

from encamp.storage.owned_folder import sandboxes

sys.path.append(str(Path(__file__).parents[1] / "storage"))
from other_processes import small_disk

pytestmark = pytest.mark.chaos

PAGE = 4096
SPARE = (1 << 20) + (1 << 19)
"""What encamp leaves free, and what the index, locks and folders take."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def parts_of(need: int) -> list[tuple[int, int]]:
    """Sizes of a disk in percent of the need, and in bytes: a dozen, or many."""
    rng = random.Random(SEED)
    percents = [1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    percents += [rng.randrange(1, 100) for _ in range(CHAOS * 10)]
    return [(percent, -(-need * percent // 100) // PAGE * PAGE + PAGE) for percent in percents]


@contextmanager
def on_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of this size in place of an empty folder."""
    folder.rmdir()
    try:
        with small_disk(folder, str(size)):
            yield
    finally:
        folder.rmdir()
        folder.mkdir()


def check_full(end: End, disk: Path, size: int) -> None:
    """The task was told of the disk that is full, with numbers that make sense."""
    if end.error == "OwnTrouble":
        return  # the task itself wrote to the full disk
    assert end.error == "DiskFull", end.trace
    path, need, free = (end.facts[name] for name in ("path", "need", "free"))
    assert Path(path).is_relative_to(disk)
    assert 0 <= free < need, end.text
    assert free <= size


def test_local_storage_of_any_size_takes_the_task_or_is_named_full(
    place: Place, tmp_path: Path
) -> None:
    held = sum(len(content) for content in place.inputs.values())
    own = sum(len(content) for content in outputs_of(place.inputs).values())
    need = 2 * held + own + SPARE
    ended: dict[str, list[int]] = {}
    with forks(traced=False) as line, watched(place.to, tmp_path / "stop"):
        for percent, size in parts_of(need):
            with on_disk(place.local, size):
                end = line.do("staging", **place.given)
                ended.setdefault(end.error, []).append(percent)
                place.check_whole()
                if end.error:
                    check_full(end, place.local, size)
                    assert list(place.to.iterdir()) == [], "half of the outputs were published"
                else:
                    place.check_done()
                    shutil.rmtree(place.to)
                    place.to.mkdir()
                place.check_nothing_left()
    print(f"{need=}, {SEED=}: {ended}")
    assert ended["DiskFull"]
    assert 100 in ended[""]


def test_a_destination_of_any_size_takes_all_outputs_or_none_and_is_named_full(
    place: Place, tmp_path: Path
) -> None:
    made = outputs_of(place.inputs)
    need = sum(-len(content) // PAGE * -PAGE for content in made.values()) + 10 * PAGE
    ended: dict[str, list[int]] = {}
    with forks(traced=False) as line, watched(place.to, tmp_path / "stop"):
        for percent, size in parts_of(need):
            with on_disk(place.to, size):
                end = line.do("staging", **place.given)
                ended.setdefault(end.error, []).append(percent)
                if end.error:
                    check_full(end, place.to, size)
                    assert [path for path in place.to.rglob("*") if path.is_file()] == []
                else:
                    place.check_done()
                place.check_nothing_left()
    print(f"{need=}, {SEED=}: {ended}")
    assert ended["DiskFull"]
    assert 100 in ended[""]


def test_a_full_cache_gives_way_before_a_task_is_refused(place: Place) -> None:
    """The disk has room for one half of the inputs: each use has to evict those before.

    What is noted and never came, as its fetch broke off, gives no room when it is evicted.
    """
    names = many_sources(place, 12, 500_000)
    given: dict[str, Any] = {"local": place.local, "source": str(place.source), "limit": "1G"}
    with on_disk(place.local, 6 * 500_000 + SPARE), forks() as line:
        order = names
        for turn in range(2 + CHAOS):
            gone = order[:1]
            broken = line.hit(FIRST_TOUCH, "error=EIO", "using", names=gone, **given)
            assert broken.named, broken
            order = random.Random(f"{SEED} {turn}").sample(names, 12)
            end = line.do("using", names=order, **given)
            assert end.error == "", f"{turn=} {SEED=}: {end.trace}"
        with place.entered() as root:
            assert list(sandboxes(root).iterdir()) == []


FIRST_TOUCH = Step("utimensat", 1, "")
"""The first file in the cache is given its time: it is nearly done."""


def test_a_disk_that_is_just_large_enough_for_many_files_takes_them(place: Place) -> None:
    """Each of them is too small to ask for room; room for all is asked for once."""
    names = many_sources(place, 130, 100_000)
    given: dict[str, Any] = {"local": place.local, "source": str(place.source), "limit": "1G"}
    with on_disk(place.local, 130 * 25 * PAGE + 2 * SPARE), forks(traced=False) as line:
        end = line.do("using", names=names, at_once=True, **given)
        assert end.error == "", end.trace
        assert end.result == 130 * 100_000


def many_sources(place: Place, count: int, size: int) -> list[str]:
    """Put other sources into the place; their names."""
    place.source = place.source.with_name("many")
    place.source.mkdir()
    names = [f"{number:04}" for number in range(count)]
    for name in names:
        (place.source / name).write_bytes(sealed(size, name))
    return names
