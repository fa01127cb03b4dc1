"""A disk that refuses one operation: a clear error or a correct result, and no damage."""

from __future__ import annotations

import random
from itertools import zip_longest
from pathlib import Path

import pytest
from forks import CHAOS, SEED, Step, forks, part_of, watched
from places import Place, make_place

pytestmark = pytest.mark.chaos

FAULTS = {
    "error=EIO": "openat read write pwrite64 copy_file_range fsync rename link linkat unlink mkdir "
    "rmdir symlink fcntl flock fchmod utimensat getdents64 newfstatat mount umount2 close",
    "error=ENOSPC": "openat write pwrite64 copy_file_range fsync rename link linkat mkdir symlink",
    "error=EDQUOT": "openat write pwrite64 copy_file_range fsync rename link linkat mkdir symlink",
    "error=ESTALE": "openat read write copy_file_range fsync rename link unlink newfstatat",
    "error=EINTR": "openat read write copy_file_range fsync fcntl flock",
    "retval=1": "write copy_file_range",
}
"""What may go wrong → with which calls; 1 is a write that says it wrote one byte, and did not."""
PARTS = 3


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def cases(steps: list[Step], place: Place) -> list[tuple[str, Step]]:
    """Every fault at every step that has to do with the place, in random order.

    Kinds of faults come in turn, and of each first one step of each of its calls: most steps are
    of a few calls, and would leave no room for the others.
    """
    rng = random.Random(SEED)
    kinds = []
    for fault, calls in FAULTS.items():
        hit = [step for step in steps if step.call in calls.split() and _fits(fault, step, place)]
        by_call: dict[str, list[Step]] = {}
        for step in rng.sample(hit, len(hit)):
            by_call.setdefault(step.call, []).append(step)
        calls_in_turn = zip_longest(*by_call.values())
        kinds.append([(fault, step) for turn in calls_in_turn for step in turn if step is not None])
    return [case for turn in zip_longest(*kinds) for case in turn if case is not None]


def _fits(fault: str, step: Step, place: Place) -> bool:
    """Not where the task itself would be told that it had written what it had not."""
    own = fault == "retval=1" and step.call == "write" and "/task/" in step.line
    return str(place.source.parent) in step.line and not own


@pytest.mark.parametrize("part", range(PARTS))
def test_error_at_any_step_is_reported_or_harmless_and_next_process_succeeds(
    place: Place, tmp_path: Path, part: int
) -> None:
    ended: dict[str, int] = {}
    with forks() as line, watched(place.to, tmp_path / "stop"):
        steps = line.steps(tmp_path / "log", "staging", " ".join(FAULTS.values()), **place.given)
        all_cases = cases(steps, place)
        taken = part_of(all_cases[: 50 * CHAOS or 30], part, PARTS)
        for number, (fault, step) in enumerate(taken):
            place.clear()
            where = f"{fault} at {step} ({number} of {len(taken)}, {SEED=})"
            end = line.hit(step, fault, "staging", **place.given)
            ended[end.error] = ended.get(end.error, 0) + 1
            try:
                assert end.code == 0
                if end.error:
                    assert end.named, end.trace
                    assert "\n" not in end.text
                    place.check_whole()
                else:
                    place.check_done()
                again = line.do("staging", **place.given)
                assert again.error == "", again.trace
                place.check_done()
                place.check_nothing_left()
            except AssertionError as exc:
                raise AssertionError(where) from exc
    print(f"{len(taken)} of {len(all_cases)} errors, {SEED=}: {ended}")
    assert ended.get("", 0) < len(taken), "no fault was ever noticed"
