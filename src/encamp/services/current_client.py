"""The client for the calling code: that of its task, its program, or a job's step."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from encamp.services.client import Client
from encamp.services.step_client import StepClient
from encamp.services.task_client import TaskClient
from encamp.slot.current_task import TaskSlot, slot_here, step_here

_of_slots: WeakKeyDictionary[TaskSlot, TaskClient] = WeakKeyDictionary()
_of_programs: WeakValueDictionary[str, Client] = WeakValueDictionary()
"""By the tokens of clusters."""
_of_steps: WeakKeyDictionary[TaskSlot, tuple[int, dict[str, StepClient]]] = WeakKeyDictionary()
"""By the slots of jobs' steps: the number of the call that runs, and its clients by tokens."""


def program_client(token: str, client: Client) -> None:
    """Have services and proxies of a cluster find the program's client when they are unpickled."""
    _of_programs[token] = client


def task_client() -> TaskClient | None:
    """The client of the task that this thread runs; None if it runs none."""
    here = slot_here()
    if here is None:
        return None
    slot, task = here
    slot.check_runs(task)
    client = _of_slots.get(slot)
    if client is None or client.id != task:
        client = _of_slots[slot] = TaskClient(slot, task)
    return client


def client_of(token: str) -> Client:
    """The client that makes the calling code's calls to services of a cluster, by its token.

    Raises RuntimeError outside the program that created the cluster, of tasks of that cluster,
    and of steps of jobs that run in either.
    """
    here = slot_here()
    in_task = here is not None and here[0].cluster == token
    client = task_client() if in_task else _of_programs.get(token)
    if client is None and (step := step_here()) is not None:
        return _step_client(token, *step)
    if client is None:
        raise RuntimeError(
            "a service or proxy can be used only in the program that created its cluster, in tasks "
            "of that cluster, and in steps of jobs that run in either"
        )
    return client


def _step_client(token: str, slot: TaskSlot, call: int) -> Client:
    """The client of a step for a cluster's services."""
    of_call, clients = _of_steps.get(slot, (-1, {}))
    if of_call != call:
        clients = {}
        _of_steps[slot] = call, clients

    def ask(question: object) -> Any:
        slot.check_runs(call)
        return slot.ask(question)

    if token not in clients:
        clients[token] = StepClient(token, ask)
    return clients[token]
