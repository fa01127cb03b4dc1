"""The end for the calling code: that of its task, its program, or a job's step."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from encamp.services.ends import End
from encamp.services.relay import RelayedEnd
from encamp.services.task_end import TaskEnd
from encamp.slot.calls import Slot, slot_here, step_here

_of_slots: WeakKeyDictionary[Slot, TaskEnd] = WeakKeyDictionary()
_of_programs: WeakValueDictionary[str, End] = WeakValueDictionary()
"""By the tokens of clusters."""
_of_steps: WeakKeyDictionary[Slot, tuple[int, dict[str, RelayedEnd]]] = WeakKeyDictionary()
"""By the slots of jobs' steps: the number of the call that runs, and its ends by tokens."""


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
    """Where calls of a cluster's services are made from here.

    A task of another cluster has none, but where it is a thread of the program. A step of a job
    has the one of its worker.
    """
    here = slot_here()
    end = task_end() if here is not None and here[0].cluster == token else _of_programs.get(token)
    if end is None and (step := step_here()) is not None:
        return _end_of_step(token, *step)
    if end is None:
        raise RuntimeError(
            "a service or proxy can be used only in the program that created its cluster, in tasks "
            "of that cluster, and in steps of jobs that run in either"
        )
    return end


def _end_of_step(token: str, slot: Slot, call: int) -> End:
    """The one end of a step for a cluster's services."""
    of_call, ends = _of_steps.get(slot, (-1, {}))
    if of_call != call:
        ends = {}
        _of_steps[slot] = call, ends

    def ask(question: object) -> Any:
        slot.check_runs(call)
        return slot.ask(question)

    if token not in ends:
        ends[token] = RelayedEnd(token, ask)
    return ends[token]
