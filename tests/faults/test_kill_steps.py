"""A kill at any system call of staging, publishing, evicting or cleaning does no harm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import SEED, Forks, Step, chosen, forks, part_of, watched
from places import SIZES, Place, make_place

from encamp.storage.disk.temporary_names import PART

pytestmark = pytest.mark.chaos


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


Done = Callable[[], object]
PARTS = 2
by_parts = pytest.mark.parametrize("part", range(PARTS))


class Sweep:
    """The same deed again and again, each time killed at another of its system calls."""

    def __init__(self, line: Forks, place: Place, part: int, deed: str, **given: Any) -> None:
        self._line, self._place, self._part = line, place, part
        self._deed, self._given = deed, given

    def run(self, log: Path, wanted: int, *, before: Done, killed: Done, after: Done) -> None:
        """``before`` each time, ``killed`` when that is done, ``after`` at the end of each."""
        before()
        steps = self._line.steps(log, self._deed, **self._given)
        after()
        taken = part_of(chosen(steps, wanted), self._part, PARTS)
        deaths = 0
        for number, step in enumerate(taken):
            self._place.clear()
            before()
            try:
                end = self._line.hit(step, "signal=KILL", self._deed, **self._given)
                deaths += end.killed
                killed()
                after()
            except AssertionError as exc:
                where = f"{number} of {len(taken)} steps of {len(steps)}, {SEED=}"
                raise AssertionError(f"killed at {step} ({where})") from exc
        print(f"{self._deed}: {deaths} deaths at {len(taken)} of {len(steps)} steps, {SEED=}")
        assert deaths >= 0.9 * len(taken), f"only {deaths} of {len(taken)} were killed ({SEED=})"


@by_parts
def test_killed_at_any_step_of_a_sandboxs_life_the_next_process_does_it_right(
    place: Place, tmp_path: Path, part: int
) -> None:
    with forks() as line, watched(place.to, tmp_path / "stop"):

        def again() -> None:
            end = line.do("staging", **place.given)
            assert end.error == "", end.trace
            place.check_done()
            place.check_nothing_left()

        sweep = Sweep(line, place, part, "staging", **place.given)
        sweep.run(tmp_path / "log", 25, before=nothing, killed=place.check_whole, after=again)


def nothing() -> None:
    """There is nothing to do."""


@by_parts
def test_killed_at_any_step_of_evicting_the_next_process_does_it_right(
    place: Place, tmp_path: Path, part: int
) -> None:
    """The limit is so small that each input evicts the one before."""
    given: dict[str, Any] = {"local": place.local, "limit": "200k", "source": str(place.source)}
    with forks() as line:

        def use(names: list[str]) -> None:
            end = line.do("using", names=names, **given)
            assert end.error == "", end.trace

        def check() -> None:
            use(ORDER)
            place.check_nothing_left()
            place.check_cache()
            place.check_total(at_most=200 * 1024 + max(SIZES.values()))

        sweep = Sweep(line, place, part, "using", names=ORDER, **given)
        sweep.run(
            tmp_path / "log",
            15,
            before=lambda: use(["forest", "large"]),
            killed=place.check_cache,
            after=check,
        )


ORDER = ["small", "twigs", "own", "shut"]


@by_parts
def test_killed_at_any_step_of_cleaning_the_next_process_cleans_the_rest(
    place: Place, tmp_path: Path, part: int
) -> None:
    with forks() as line:
        steps = line.steps(tmp_path / "first", "staging", **place.given)
        publishing = at(steps, "rename", PART)
        more: dict[str, Any] = {"source": str(place.source), "names": ["own"], "local": place.local}
        fetching = at(
            line.steps(tmp_path / "second", "using", **more), "copy_file_range", "/partial/"
        )

        def leave() -> None:
            assert line.hit(publishing, "signal=KILL", "staging", **place.given).killed
            assert line.hit(fetching, "signal=KILL", "using", **more).killed
            assert place.remains() >= {"sandboxes", "parts", "partial"}
            assert "mounts" in place.remains() or os.geteuid() != 0

        def check() -> None:
            place.check_whole()
            place.check_nothing_left()

        place.clear()
        sweep = Sweep(line, place, part, "reclaiming", local=place.local)
        sweep.run(tmp_path / "log", 15, before=leave, killed=place.check_whole, after=check)


def at(steps: list[Step], call: str, path: str) -> Step:
    """The first call of its kind that has to do with ``path``."""
    return next(step for step in steps if step.call.startswith(call) and path in step.line)
