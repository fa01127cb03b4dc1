"""Slots' processes that fail to start are retried a limited number of times."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.agent.failed_starts import TRIES, Starts
from encamp.errors import SlotsCannotStart
from encamp.jobs.worker.slots import SlotLost, Slots, SupervisedSlot, _NotTaken

STILLBORN: dict[str, Any] = {"stillborn": "no module", "begun": False, "waited": True}
IDLE: dict[str, Any] = {"stillborn": None, "begun": False, "waited": False}
BY_CALL: dict[str, Any] = {"stillborn": None, "begun": False, "waited": True}
WORKED: dict[str, Any] = {"stillborn": None, "begun": True, "waited": True}


@pytest.mark.parametrize(
    ("ends", "hopeless", "by_call"),
    [
        ([STILLBORN] * (TRIES - 1), False, False),
        ([STILLBORN] * TRIES, True, False),
        ([STILLBORN | {"waited": False}] * TRIES, True, False),
        ([STILLBORN] * (TRIES - 1) + [WORKED] + [STILLBORN] * (TRIES - 1), False, False),
        ([STILLBORN] * (TRIES - 1) + [IDLE] + [STILLBORN] * (TRIES - 1), False, False),
        ([BY_CALL] * (TRIES - 1), False, False),
        ([BY_CALL] * TRIES, False, True),
        ([BY_CALL] * (TRIES - 1) + [STILLBORN], True, False),
        ([STILLBORN] * (TRIES - 1) + [BY_CALL], False, True),
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

    def __init__(self, stillborn: str | None, *, is_new: bool = True) -> None:
        self._said, self._new = stillborn, is_new

    @property
    def stillborn(self) -> str | None:
        return self._said

    @property
    def is_new(self) -> bool:
        return self._new

    def run(self, *_: object, **__: object) -> Any:
        raise _NotTaken


@pytest.mark.parametrize(
    ("stillborn", "error"), [("no module", SlotsCannotStart), (None, SlotLost)]
)
def test_a_call_is_given_to_so_many_new_slots_and_to_any_that_were_used(
    monkeypatch: pytest.MonkeyPatch, stillborn: str | None, error: type[Exception]
) -> None:
    given = iter([_Slot(None, is_new=False)] * 5 + [_Slot(stillborn)] * TRIES)
    monkeypatch.setattr(Slots, "borrow", lambda *_, **__: nullcontext(next(given)))
    with pytest.raises(error):
        Slots().run(print, supervisor=SimpleNamespace(), tick=1.0)
    assert next(given, None) is None
