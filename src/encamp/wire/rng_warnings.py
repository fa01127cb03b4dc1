"""Warnings about random number generators that are sent to several tasks.

These tasks would all draw the same numbers, which is hardly ever intended and easily overlooked.
There is one warning for each function.
"""

from __future__ import annotations

import functools
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from encamp.errors import RandomNumbersRepeat
from encamp.wire.frames import Buffer
from encamp.wire.global_names import global_names
from encamp.wire.pickling import dump

_MARKS = b"numpy.random._pickle", b"\x06random\x94\x8c\x06Random\x94"
"""Bytes in the pickle of a generator of NumPy, or of one of the standard library."""
_MOST = 1000
"""Maximum number of states that are remembered."""
_CHECKED = 300
"""Maximum number of values that are checked."""
_DEPTH = 3
"""How deep collections and attributes are checked."""
_MODULES = "numpy", "random"
_CACHING = type(functools.lru_cache(len))
_KINDS = frozenset({"Generator", "BitGenerator", "RandomState", "Random"})


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
        names = [name for name, _ in _generators(_used(function))]
        self._warn(getattr(function, "__qualname__", "a function"), names)

    def of_arguments(self, function: str, values: Iterable[Any], task: object) -> None:
        """Check a task's arguments; warns if another task had a generator in the same state."""
        for name, generator in _generators(("", value) for value in values):
            state = b"".join(dump(generator))
            if self._states.setdefault(state, task) != task:
                self._warn(function, [name])
            if len(self._states) > _MOST:
                del self._states[next(iter(self._states))]

    def _warn(self, function: str, names: list[str]) -> None:
        if function not in self._warned:
            self._warned.add(function)
            text = RandomNumbersRepeat(function, tuple(filter(None, names)))
            warnings.warn(text, stacklevel=_outside())


def uses_generator(function: Callable[..., Any]) -> bool:
    """Whether a function uses a generator that is not among its arguments."""
    return any(True for _ in _generators(_used(function)))


def _is_generator(value: object) -> bool:
    kinds = type(value).__mro__
    if all(str(kind.__module__).partition(".")[0] not in _MODULES for kind in kinds):
        return False
    return not _KINDS.isdisjoint(kind.__name__ for kind in kinds)


def _used(function: Any, met: set[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """The objects that a function uses, by name, and those of the functions that it calls."""
    function = _without_cache(function)
    met = set() if met is None else met
    if not isinstance(function, types.FunctionType) or function in met:
        return
    met.add(function)
    code = function.__code__
    for name in global_names(code):
        if name in function.__globals__:
            value = function.__globals__[name]
            yield name, value
            called = _without_cache(value)
            if getattr(called, "__globals__", None) is function.__globals__:
                yield from _used(called, met)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    for value in (*(function.__defaults__ or ()), *vars(function).values()):
        yield "", value
    yield from (function.__kwdefaults__ or {}).items()


def _without_cache(value: Any) -> Any:
    """A function without its wrapper, such as a cache; None for any other object."""
    if isinstance(value, _CACHING | types.FunctionType):
        return getattr(value, "__wrapped__", value)
    return None


def _generators(values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The generators among named values, in their attributes, in collections and partials."""
    waiting = deque((name, value, 0) for name, value in values)
    for _ in range(_CHECKED):
        if not waiting:
            return
        name, value, depth = waiting.popleft()
        # By the type, because an object may answer to any name.
        owner = value.__self__ if hasattr(type(value), "__self__") else value
        if _is_generator(owner):
            yield name, owner
        elif depth < _DEPTH:
            parts = islice(_parts(name, owner), _CHECKED - min(_CHECKED, len(waiting)))
            waiting.extend((*part, depth + 1) for part in parts)


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, with names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key if isinstance(key, str) else name), inner
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for inner in value:
            yield name, inner
    elif isinstance(value, functools.partial):
        yield from ((name, inner) for inner in (value.func, *value.args))
        yield from value.keywords.items()
    elif not isinstance(value, types.ModuleType):
        try:
            attributes = dict(object.__getattribute__(value, "__dict__"))
        except Exception:  # noqa: BLE001 - it has none, or its own code raises anything
            return
        yield from attributes.items()


def _outside() -> int:
    """The stack level of the program's own code, for `warnings.warn` in the caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("encamp."):
        frame, level = frame.f_back, level + 1
    return level
