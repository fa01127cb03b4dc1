"""The parameters of tasks: the first columns of a job's table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from encamp.errors import BadJob, BadValues
from encamp.jobs.steps import Call, Parameters, Task
from encamp.task_values import Scalar, check_scalar, plain

_PLAIN = (str, int, float, bool, type(None))
_LONGEST = 200
"""Maximum number of characters of an argument that becomes a parameter."""


def checked_parameters(task: str, given: Mapping[str, Any] | None) -> Parameters | None:
    """Check the parameters that a user gives. Raises `BadJob`."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise BadJob(f"parameters of task {task}", f"must be a dictionary, not {given!r}")
    values = tuple(map(_plain, given.values()))
    try:
        for name, value in zip(given, values, strict=True):
            check_scalar(value, name, task)
    except BadValues as exc:
        raise BadJob(f"parameters of task {task}", exc.why) from None
    return _once(tuple(map(str, given))), values


@lru_cache(maxsize=100)
def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same object for the same names: a million tasks may have them."""
    return names


def parameters_of(task: Task) -> dict[str, Scalar]:
    """A task's parameters: the given ones, or the simple arguments of its last Python step."""
    if task.parameters is not None:
        return dict(zip(*task.parameters, strict=True))
    last = _last_call(task)
    return {} if last is None else _arguments(last)


def parameters_but_values(task: Task) -> object:
    """The sources of the parameters, except arguments of steps, which are in the task's key."""
    if task.parameters is not None:
        return task.parameters
    last = _last_call(task)
    return None if last is None else _names_of(last)


def _last_call(task: Task) -> Call | None:
    for step in reversed(task.steps):
        if isinstance(step, Call):
            return step
    return None


def _names_of(step: Call) -> Sequence[str]:
    with suppress(TypeError, ValueError):  # not hashable, or without a signature
        return _names(step.function)
    return ()


def _arguments(step: Call) -> dict[str, Scalar]:
    if not (step.args or step.kwargs):
        return {}
    given = {**dict(zip(_names_of(step), step.args, strict=False)), **step.kwargs}
    simple = {name: _plain(value) for name, value in given.items()}
    return {name: value for name, value in simple.items() if _is_simple(value)}


@lru_cache(maxsize=1000)
def _names(function: Callable[..., Any]) -> list[str]:
    """The names of positional arguments."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in kinds]


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    with suppress(TypeError):
        return plain(value)
    return value


def _is_simple(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return value is None or isinstance(value, int | float)
