"""Warnings about random number generators that are sent to several tasks.

These tasks would all draw the same numbers, which is hardly ever intended and easily overlooked.
There is one warning for each function.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from encamp.errors import RandomNumbersRepeat
from encamp.wire.frames import Buffer
from encamp.wire.global_names import global_names

_MARKS = b"numpy.random._pickle", b"\x06random\x94\x8c\x06Random\x94"
"""Bytes in the pickle of a generator of NumPy, or of one of the standard library."""
_MOST = 1000
"""The number of states that are remembered, at most."""


def has_generator(data: Buffer) -> bool:
    """Whether a pickle contains a random number generator."""
    text = data if isinstance(data, bytes | bytearray) else bytes(data)
    return _MARKS[0] in text or _MARKS[1] in text


class RandomNumberWarnings:
    """The generators of one program's tasks, or of one job's."""

    def __init__(self) -> None:
        self._states: dict[bytes, object] = {}
        """By state, the task that had it: a task may be checked twice."""
        self._warned: set[str] = set()
        self._steps: dict[str, bool] = {}
        """Functions of steps, and whether they use a generator."""

    def of_step(self, function: Callable[..., Any], values: Iterable[Any]) -> None:
        """Check a function of a task's step; warns if another step shares its generator."""
        name = getattr(function, "__qualname__", type(function).__name__)
        if name not in self._steps:
            self._steps[name] = uses_generator(function)
        elif self._steps[name]:
            self.of_function(function)
        self.of_arguments(name, values, object())

    def of_function(self, function: Callable[..., Any]) -> None:
        """Warn that several tasks call a function with the same state of a generator."""
        names = [name for name, value in _used(function) if _is_generator(value)]
        self._warn(getattr(function, "__qualname__", "a function"), names)

    def of_arguments(self, function: str, values: Iterable[Any], task: object) -> None:
        """Check a task's arguments; warns if another task had a generator in the same state."""
        for name, generator in _generators(values):
            state = pickle.dumps(generator, 5)
            if self._states.setdefault(state, task) != task:
                self._warn(function, [name] if name else [])
            if len(self._states) > _MOST:
                del self._states[next(iter(self._states))]

    def _warn(self, function: str, names: list[str]) -> None:
        if function not in self._warned:
            self._warned.add(function)
            text = RandomNumbersRepeat(function, tuple(names))
            warnings.warn(text, stacklevel=_outside())


def uses_generator(function: Callable[..., Any]) -> bool:
    """Whether a function uses a generator that is not among its arguments."""
    return any(_is_generator(value) for _, value in _used(function))


def _is_generator(value: object) -> bool:
    kind = type(value)
    if kind.__module__.partition(".")[0] not in ("numpy", "random"):
        return False
    return kind.__name__ in ("Generator", "RandomState", "Random")


def _used(function: Any, met: set[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """The objects that a function uses, by name, and those of the functions that it calls."""
    function = getattr(function, "__wrapped__", function)
    met = set() if met is None else met
    if not isinstance(function, types.FunctionType) or function in met:
        return
    met.add(function)
    code = function.__code__
    for name in global_names(code):
        if name in function.__globals__:
            value = function.__globals__[name]
            yield name, value
            if getattr(value, "__globals__", None) is function.__globals__:
                yield from _used(value, met)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    for value in function.__defaults__ or ():
        yield "", value


def _generators(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The generators among values, in their attributes, and in partials."""
    for value in values:
        if _is_generator(value):
            yield "", value
            continue
        if isinstance(value, functools.partial):
            yield from _generators((value.func, *value.args))
            for name, given in value.keywords.items():
                yield from ((inner or name, found) for inner, found in _generators([given]))
            continue
        owner = getattr(value, "__self__", value)
        for name, attribute in getattr(owner, "__dict__", {}).items():
            if _is_generator(attribute):
                yield str(name), attribute


def _outside() -> int:
    """The stack level of the program's own code, for `warnings.warn` in the caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("encamp."):
        frame, level = frame.f_back, level + 1
    return level
