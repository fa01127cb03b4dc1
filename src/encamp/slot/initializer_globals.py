"""The globals that an initializer has set, for functions that are sent by value.

Each such function has its own globals, created when it was unpickled, while functions of one module
share theirs. The globals that a script's initializer sets or fills are therefore given to each
function, as in a pool whose processes were forked.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from encamp.slot.run_function import called
from encamp.wire.by_value import Pickler

_UNCHANGING = (int, float, complex, str, bytes, type(None), type, FunctionType, ModuleType)


class Initialized:
    """The globals that an initializer has set or changed in this process, by module name."""

    def __init__(self, initializer: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Call the initializer; raises its exceptions."""
        self._made: dict[str, dict[str, Any]] = {}
        before = [(function, _states(function.__globals__)) for function in _by_value(initializer)]
        called(initializer, args)
        for function, had in before:
            now = function.__globals__
            new = {
                name: now[name] for name, state in _states(now).items() if had.get(name) != state
            }
            self._made.setdefault(_module(function), {}).update(new)

    def give(self, function: object) -> None:
        """Set in a function's globals what the initializer has set in those of its module."""
        for found in _by_value(function):
            found.__globals__.update(self._made.get(_module(found), {}))


def _states(values: dict[str, Any]) -> dict[str, object]:
    """For each value, something that changes if it is replaced or modified."""
    return {name: (id(value), _digest(value)) for name, value in values.items() if name[:2] != "__"}


def _digest(value: object) -> object:
    """A digest of a value's pickle; a new object, equal to no other, if it cannot be pickled."""
    if isinstance(value, _UNCHANGING):
        return None
    digest = _Digest()
    try:
        Pickler(digest, 5).dump(value)
    except Exception:  # noqa: BLE001 - an object's own code may raise any
        return object()
    return digest.sum.digest()


class _Digest:
    """A file that keeps only a digest of what is written."""

    def __init__(self) -> None:
        self.sum = hashlib.blake2b()

    def write(self, data: bytes) -> int:
        """Add data to the digest."""
        self.sum.update(data)
        return len(data)


def _module(function: FunctionType) -> str:
    return str(function.__globals__.get("__name__"))


def _by_value(function: object, depth: int = 3) -> Iterator[FunctionType]:
    """The functions with their own globals in a callable: itself, and those in its closure.

    Looks into closures of closures down to ``depth``.
    """
    if isinstance(function, partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType) or not depth:
        return
    module = sys.modules.get(_module(function))
    if module is None or vars(module) is not function.__globals__:
        yield function
    for cell in function.__closure__ or ():
        try:
            yield from _by_value(cell.cell_contents, depth - 1)
        except ValueError:  # an empty cell
            continue
