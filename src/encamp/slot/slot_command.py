"""The command that starts a slot's process, in a frozen program too; see `frozen_programs`."""

from __future__ import annotations

import base64
import gc
import sys

from encamp.engines.kit.own_interpreter import interpreter_flags, python_command
from encamp.errors import NoPython

_START = """\
import sys
orders, *folders = sys.argv[1:]
del sys.argv[1:]
sys.path += [folder for folder in folders if folder not in sys.path]
from encamp.slot.slot_command import be_slot
be_slot(orders)
"""
SLOT = "--encamp-slot"
"""The first argument of a frozen program that is to be a slot; its orders follow."""
_frozen_can = False
"""Whether this frozen program runs a slot when it is started as one."""


def let_frozen_start_slots() -> None:
    """Allow this program, which is frozen, to be started again as a slot."""
    global _frozen_can
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
        return [sys.executable, SLOT, words]


def check_slots() -> None:
    """Raise `NoPython` where no slot can be started."""
    slot_command(b"")


def be_slot(orders: str) -> None:
    """Run the slot that ``orders`` describe, until it ends."""
    gc.disable()  # until all is loaded: what modules define stays
    from encamp.slot.main import main

    main(base64.b64decode(orders))
