"""Functions of a notebook that were defined again after they had been given to a job."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable

from encamp.jobs.plan.fingerprint import fingerprint
from encamp.jobs.steps import Call, Task


def redefined(tasks: Iterable[Task]) -> list[str]:
    """A warning for each function whose name an interactive session has given to a different one.

    The job runs the function that it was given: which of the two was meant is not known.
    """
    main = sys.modules.get("__main__")
    if main is None or hasattr(main, "__file__"):  # a script defines its functions once
        return []
    found: dict[str, list[str]] = {}
    for task in tasks:
        for step in task.steps:
            if isinstance(step, Call) and _is_old(step.function, main):
                found.setdefault(step.function.__name__, []).append(task.name)
    return [_warning(name, of) for name, of in found.items()]


def _is_old(function: object, main: types.ModuleType) -> bool:
    if not isinstance(function, types.FunctionType) or function.__module__ != "__main__":
        return False
    now = getattr(main, function.__qualname__, None)  # none has the name of a nested function
    if now is function or not isinstance(now, types.FunctionType):
        return False
    return fingerprint(now) != fingerprint(function)


def _warning(name: str, tasks: list[str]) -> str:
    of = f"task {tasks[0]}" if len(tasks) == 1 else f"{len(tasks)} tasks, such as {tasks[0]}"
    return (
        f"the function {name} was defined again after it was added to {of}: the job runs the old "
        "one; run the cell that makes the job again to use the new one"
    )
