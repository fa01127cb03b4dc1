"""Starts the program of a slot's process, even in a frozen program."""

from __future__ import annotations

import base64
import gc
import sys

from encamp.engines.kit.interpreter import interpreter_flags, python_command
from encamp.errors import NoPython

_START = """\
import sys
orders, *folders = sys.argv[1:]
del sys.argv[1:]
sys.path += [folder for folder in folders if folder not in sys.path]
from encamp.slot.launch import be_slot
be_slot(orders)
"""
_SLOT = "--encamp-slot"
_frozen_can = False
"""Whether this program, frozen, becomes a slot when it is started as one."""


def freeze_support() -> None:
    """Allow a frozen program, as made by PyInstaller, to have slots.

    Call this first in the program. Each slot is the same program, started again; there the call
    runs the slot and does not return. In the program itself, and in ordinary Python, it returns at
    once.
    """
    global _frozen_can
    if not getattr(sys, "frozen", False):
        return
    if sys.argv[1:2] == [_SLOT]:
        orders = sys.argv[2]
        del sys.argv[1:]
        be_slot(orders)
        sys.exit(0)
    _frozen_can = True


def slot_command(orders: bytes, interpreter: str = "") -> list[str]:
    """The command that starts a slot, with this process's interpreter if none is given.

    Another interpreter finds its own packages before those of this process. Raises `NoPython`.
    """
    words = base64.b64encode(orders).decode()
    if interpreter:
        start = [interpreter, "-P", *interpreter_flags()]
        return [*start, "-c", _START, words, *filter(None, sys.path)]
    try:
        # The slot must find encamp and its dependencies where this process has found them.
        return [*python_command(), "-c", _START, words, *filter(None, sys.path)]
    except NoPython:
        if not _frozen_can:
            raise
        return [sys.executable, _SLOT, words]


def check_slots() -> None:
    """Raise `NoPython` where no slot can be started."""
    slot_command(b"")


def be_slot(orders: str) -> None:
    """Run the slot that ``orders`` describe, until it ends."""
    gc.disable()  # until all is loaded: what modules define stays
    from encamp.slot.main import main

    main(base64.b64decode(orders))
