"""Slots of frozen programs, as made by PyInstaller: each is the same program, started again."""

from __future__ import annotations

import sys

from encamp.slot.slot_command import SLOT, be_slot, let_frozen_start_slots


def freeze_support() -> None:
    """Allow a frozen program, as made by PyInstaller, to have slots.

    Call this first in the program. Each slot is the same program, started again; there the call
    runs the slot and does not return. In the program itself, and in ordinary Python, it returns at
    once.
    """
    if not getattr(sys, "frozen", False):
        return
    if sys.argv[1:2] == [SLOT]:
        orders = sys.argv[2]
        del sys.argv[1:]
        be_slot(orders)
        sys.exit(0)
    let_frozen_start_slots()
