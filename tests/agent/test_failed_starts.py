"""Slots' processes that fail to start are retried a limited number of times."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.agent.failed_starts import TRIES, Starts
from encamp.errors import SlotsCannotStart
from encamp.jobs.worker.slots import SlotLost, Slots, SupervisedSlot, _NotTaken

NOT_STARTED: dict[str, Any] = {"start_failure": "no module", "begun": False, "waited": True}
IDLE: dict[str, Any] = {"start_failure": None, "begun": False, "waited": False}
BY_CALL: dict[str, Any] = {"start_failure": None, "begun": False, "waited": True}
WORKED: dict[str, Any] = {"start_failure": None, "begun": True, "waited": True}


@pytest.mark.parametrize(
    ("ends", "hopeless", "by_call"),
    [
        ([NOT_STARTED] * (TRIES - 1), False, False),
        ([NOT_STARTED] * TRIES, True, False),
        ([NOT_STARTED | {"waited": False}] * TRIES, True, False),
        ([NOT_STARTED] * (TRIES - 1) + [WORKED] + [NOT_STARTED] * (TRIES - 1), False, False),
        ([NOT_STARTED] * (TRIES - 1) + [IDLE] + [NOT_STARTED] * (TRIES - 1), False, False),
        ([BY_CALL] * (TRIES - 1), False, False),
        ([BY_CALL] * TRIES, False, True),
        ([BY_CALL] * (TRIES - 1) + [NOT_STARTED], True, False),
        ([NOT_STARTED] * (TRIES - 1) + [BY_CALL], False, True),
        ([IDLE] * (3 * TRIES), False, False),
        ([*[BY_CALL] * TRIES, WORKED], False, False),
    ],
)
def test_three_failed_starts_in_a_row_are_enough(
    ends: list[dict[str, Any]], hopeless: bool, by_call: bool
) -> None:
    starts = Starts()
    for end in ends:
        starts.note(**end)
    assert starts.by_call == by_call
    if hopeless:
        with pytest.raises(SlotsCannotStart, match="on here, tried 3 times in a row: no module"):
            starts.check("here")
    else:
        starts.check("here")


class _Slot(SupervisedSlot):
    """One whose process ends before it takes the call."""

    def __init__(self, start_failure: str | None, *, is_new: bool = True) -> None:
        self._said, self._new = start_failure, is_new

    @property
    def start_failure(self) -> str | None:
        return self._said

    @property
    def is_new(self) -> bool:
        return self._new

    def run(self, *_: object, **__: object) -> Any:
        raise _NotTaken


@pytest.mark.parametrize(
    ("start_failure", "error"), [("no module", SlotsCannotStart), (None, SlotLost)]
)
def test_a_call_is_given_to_so_many_new_slots_and_to_any_that_were_used(
    monkeypatch: pytest.MonkeyPatch, start_failure: str | None, error: type[Exception]
) -> None:
    given = iter([_Slot(None, is_new=False)] * 5 + [_Slot(start_failure)] * TRIES)
    monkeypatch.setattr(Slots, "borrow", lambda *_, **__: nullcontext(next(given)))
    with pytest.raises(error):
        Slots().run(print, supervisor=SimpleNamespace(), tick=1.0)
    assert next(given, None) is None
