"""What an initializer has set, for functions that travel by value.

Each of these has globals of its own, made when it was unpickled, where functions of one module
share theirs. So that an initializer of a script can set something for the script's functions, as
in a pool whose processes were forked, what it has set is given to each of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any


class Initialized:
    """The globals that initializers have set in this process, by their modules' names."""

    def __init__(self) -> None:
        self._set: dict[str, dict[str, Any]] = {}

    def run(self, initializer: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Call an initializer, and note what it sets; raises what it raises."""
        before = [(function, dict(function.__globals__)) for function in _by_value(initializer)]
        initializer(*args)
        for function, had in before:
            now = function.__globals__
            new = {name: now[name] for name in now if had.get(name, had) is not now[name]}
            self._set.setdefault(_module(function), {}).update(new)

    def give(self, function: object) -> None:
        """Give a function what was set for those of its module."""
        if self._set:
            for found in _by_value(function):
                found.__globals__.update(self._set.get(_module(found), {}))


def _module(function: FunctionType) -> str:
    return str(function.__globals__.get("__name__"))


def _by_value(function: object, depth: int = 3) -> Iterator[FunctionType]:
    """The functions with globals of their own in what is called, as far as is usual."""
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
        except ValueError:  # an empty one
            continue
