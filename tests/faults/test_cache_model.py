"""Processes that use one cache at random, and are killed, never find it inconsistent."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from deeds import edit
from forks import CHAOS, SEED, Forks, forks
from places import Place, files_of
from sealed import files_below, is_whole

from encamp.storage.cache.cache import HostCache, clear_cache

pytestmark = pytest.mark.chaos

WORKERS = 3


class Crowd:
    """Processes that use the same sources, and this one, which edits them and does harm."""

    def __init__(self, place: Place, lines: list[Forks], seed: str, limit: str) -> None:
        self.place, self.lines, self.limit = place, lines, limit
        self.rng = random.Random(seed)
        self.log = place.to / "log"
        self.versions: dict[Path, int] = {}
        self.kills = 0
        for number in range(4):
            self._file(place.source / f"file{number}")
        for number in range(3):
            for leaf in range(2 + 20 * number):  # by links and copies, or by overlay
                self._file(place.source / f"tree{number}/{leaf % 3}/{leaf}")
        self._file(place.source / "large", 1_300_000)

    def _file(self, path: Path, size: int = 0) -> None:
        """A file, or another version of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.versions[path] = self.versions.get(path, 0) + 1
        edit(path, self.versions[path], size or self.rng.randrange(200, 60_000), self.rng)

    def edit(self, path: Path | None = None, size: int = 0) -> None:
        self._file(path or self.rng.choice(sorted(self.versions)), size)

    def begin(self, line: Forks, turns: int) -> None:
        line.begin(
            "random_uses",
            local=self.place.local,
            limit=self.limit,
            source=str(self.place.source),
            seed=self.rng.random(),
            turns=turns,
            log=str(self.log),
        )

    def begin_all(self, turns: int) -> None:
        """As nearly at the same time as can be."""
        for line in self.lines:
            self.begin(line, turns)
        for line in self.lines:
            line.go()

    def quiet_round(self, turns: int) -> None:
        """All work at once; nobody disturbs them."""
        self.begin_all(turns)
        for end in [line.end() for line in self.lines]:
            assert end.error == "", end.trace
            assert end.result == 0, "an input was said to have changed, but none did"

    def wild_round(self, turns: int, harms: int) -> None:
        """While they work, sources change, some are killed, and the cache is cleared."""
        self.begin_all(turns)
        with self.place.entered():
            for _ in range(harms):
                time.sleep(self.rng.uniform(0, 0.03))
                match self.rng.randrange(5):
                    case 0:
                        clear_cache()
                    case 1:
                        line = self.rng.choice(self.lines)
                        self.kills += line.kill()
                        self.begin(line, turns)
                        line.go()
                    case _:
                        self.edit()
        for end in [line.end() for line in self.lines]:
            assert end.error == "", end.trace

    def check(self) -> None:
        """Sources are as they were edited, the cache is whole, and its index knows of all."""
        sources = {p: v for p, v in files_below(self.place.source).items() if ".new-" not in p}
        assert len(sources) == len(self.versions)
        assert all(map(is_whole, sources.values()))
        self.place.check_nothing_left()
        with self.place.entered() as root, HostCache() as cache:
            rows = {row.key: row.size for row in cache.rows()}
            entries = [
                path for kind in ("files", "trees") for path in root.glob(f"cache/{kind}/*/*")
            ]
            assert {path.name for path in entries} <= set(rows), "an entry that is not noted"
            for entry in entries:
                files = files_of(entry)
                assert sum(file.stat().st_size for file in files) == rows[entry.name]
                assert all(is_whole(file.read_bytes()) for file in files)
            with cache._index() as index:
                assert index.total() == sum(rows.values())
                assert index.rooms() == []

    def uses(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def crowd(top: Path, seed: str, limit: str = "") -> Iterator[Crowd]:
    place = Place(top / "source", top / "to", top / "storage", inputs={})
    for folder in (place.source, place.to, place.local):
        folder.mkdir(parents=True)
    with ExitStack() as stack:
        lines = [stack.enter_context(forks(traced=False)) for _ in range(WORKERS)]
        yield Crowd(place, lines, seed, limit)


def test_each_version_is_fetched_once_for_all_tasks_and_modes(tmp_path: Path) -> None:
    seed = f"{SEED} quiet"
    with crowd(tmp_path / "crowd", seed) as found:
        for _ in range(8 * max(1, CHAOS)):
            found.quiet_round(turns=3)
            for path in sorted(found.versions)[:4]:
                found.edit(path, 2_000_000)
        found.check()
        uses = found.uses()
        used = {identity: size for use in uses for identity, size in use["used"].items()}
        brought = sum(use["brought"] for use in uses)
        assert brought == sum(used.values()), f"{SEED=}"
    print(f"{len(uses)} uses of {len(used)} versions, {brought} bytes brought, 1.00 x, {SEED=}")


@pytest.mark.parametrize("limit", ["", "150k"])
def test_edits_kills_and_clearing_spoil_nothing(limit: str, tmp_path: Path) -> None:
    uses = kills = 0
    rounds = 3 * max(1, CHAOS)
    with crowd(tmp_path / "crowd", f"{SEED} {limit}", limit) as found:
        for number in range(rounds):
            try:
                found.wild_round(turns=15, harms=12)
                found.check()
            except AssertionError as exc:
                raise AssertionError(f"in round {number} of {rounds}, {SEED=}") from exc
        uses, kills = len(found.uses()), found.kills
    print(f"{rounds} rounds, {uses} uses, {kills} kills, {SEED=}")
    assert uses
    assert kills
