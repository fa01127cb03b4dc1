"""Which end serves the code that asks: its task's, or its program's."""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakValueDictionary

from encamp.services.ends import End
from encamp.services.task_end import TaskEnd
from encamp.slot.calls import Slot, slot_here

_of_slots: WeakKeyDictionary[Slot, TaskEnd] = WeakKeyDictionary()
_of_programs: WeakValueDictionary[str, End] = WeakValueDictionary()
"""By the tokens of clusters."""


def program_end(token: str, end: End) -> None:
    """Have services and proxies of a cluster find the program's end when they are unpickled."""
    _of_programs[token] = end


def task_end() -> TaskEnd | None:
    """The end of the task that this thread runs; None where it runs none."""
    here = slot_here()
    if here is None:
        return None
    slot, task = here
    slot.check_runs(task)
    end = _of_slots.get(slot)
    if end is None or end.id != task:
        end = _of_slots[slot] = TaskEnd(slot, task)
    return end


def end_of(token: str) -> End:
    """Where calls of a cluster's services are made from here."""
    end = task_end() or _of_programs.get(token)
    if end is None:
        raise RuntimeError(
            "a service or proxy can be used in the program that has made its cluster, and in tasks "
            "that were spawned there; a step of a job can give what it has made to the program only"
        )
    return end
