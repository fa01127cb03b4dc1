"""A process raises its own limit of open files, and leaves those of others unchanged."""

from __future__ import annotations

import pytest

from encamp.errors import TooFewFiles
from encamp.slot import open_files_limit
from encamp.slot.open_files_limit import files_of_others, need_files

INFINITE = -1


class Limits:
    """The limits of a process, in place of the module `resource`."""

    RLIM_INFINITY = INFINITE

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = soft, hard

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        self.limits = limits


def limited(patch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    limits = Limits(soft, hard)
    patch.setattr(open_files_limit, "resource", limits)
    patch.setattr(open_files_limit, "_open", lambda: 10)
    patch.setattr(open_files_limit._Raised, "before", -1)
    patch.setattr(open_files_limit._Raised, "after", -1)
    return limits


def test_a_limit_that_suffices_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 42, 1000)
    need_files(1)
    assert limits.limits == (42, 1000)
    assert files_of_others() == 42


def test_a_limit_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 41, 1000)
    need_files(1)
    assert limits.limits == (1000, 1000)
    assert files_of_others() == 41


def test_others_have_the_limit_from_before_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limited(monkeypatch, 30, INFINITE)
    for slots, raised in ((1, 42), (5, 74), (2, 74)):
        need_files(slots)
        assert limits.limits == (raised, INFINITE)
        assert files_of_others() == 30
    limits.limits = 60, INFINITE  # somebody else has changed it
    assert files_of_others() == 60
    need_files(9)
    assert files_of_others() == 60


@pytest.mark.parametrize(("hard", "good"), [(42, True), (41, False)])
def test_a_limit_that_cannot_be_raised_so_far_is_an_error(
    hard: int, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = limited(monkeypatch, 20, hard)
    if good:
        need_files(1)
    else:
        with pytest.raises(TooFewFiles):
            need_files(1)
    assert limits.limits == (hard if good else 20, hard)
