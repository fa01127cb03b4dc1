"""Pickles of code that cannot be imported by name: those of cloudpickle, with three additions.

Functions with a cache (`functools.cache`), which cloudpickle pickles by name, even those of
scripts. Source lines in tracebacks: cloudpickle replaces the file's name by ``<dynamic-code>``, and
the cells of a notebook are in no file. And the version of Python: a different version would run the
bytecode all the same, with wrong results.
"""

from __future__ import annotations

import io
import linecache
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable
from functools import lru_cache, update_wrapper
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar

import cloudpickle

from encamp.errors import OtherPython
from encamp.wire.importable import is_importable

_CACHING = type(lru_cache(len))

_PYTHON = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
_NOWHERE = "<dynamic-code>"
_reduced_code = cloudpickle.Pickler.dispatch_table[CodeType]


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    """cloudpickle's form of a code object, with its file's name, or its lines if it has no file."""
    _, args = _reduced_code(code)
    file = code.co_filename
    is_file = not file.startswith("<") and Path(file).is_file()
    if is_file and not file.startswith("/"):
        file = str(Path(file).absolute())
    file_names = (_NOWHERE, code.co_filename)  # the latter by cloudpickle 3.0
    args = tuple([file if isinstance(arg, str) and arg in file_names else arg for arg in args])
    lines = [] if is_file else _lines_of(code)
    return _made_code, (_PYTHON, args, file, code.co_firstlineno, lines)


def _lines_of(code: CodeType) -> list[str]:
    last = max((line for _, _, line in code.co_lines() if line), default=0)
    return linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last]


def _made_code(python: str, args: Any, file: str, first: int, lines: list[str]) -> CodeType:
    """The code object; its lines, if there are any, are where tracebacks look for them.

    Raises `OtherPython` if it was compiled by a different version.
    """
    if python != _PYTHON:
        raise OtherPython(python, _PYTHON)
    if lines:
        known = linecache.cache.get(file)
        before = list(known[2]) if known is not None and len(known) == 4 else []
        before += ["\n"] * (first - 1 + len(lines) - len(before))
        before[first - 1 : first - 1 + len(lines)] = lines
        linecache.cache[file] = len("".join(before)), None, before, file  # None: no file, stays
    return CodeType(*args)


def dump_by_value(value: object, buffer_callback: Callable[[Any], object] | None = None) -> bytes:
    """The pickle of a value. Raises whatever its pickling raises."""
    with io.BytesIO() as file:
        Pickler(file, 5, buffer_callback).dump(value)
        return file.getvalue()


def dump_with_modules(value: object, modules: Iterable[ModuleType]) -> bytes:
    """The pickle of a value, in which functions and classes of ``modules`` are by value, too.

    Modules that are not loaded any more are left out. Raises whatever its pickling raises.
    """
    loaded = [module for module in modules if module.__name__ in sys.modules]
    for module in loaded:
        cloudpickle.register_pickle_by_value(module)
    try:
        return dump_by_value(value)
    finally:
        for module in loaded:
            cloudpickle.unregister_pickle_by_value(module)


def _reduce_caching(function: Any) -> str | tuple[Any, ...]:
    """The name of a function with a cache, or what it is made from.

    In two steps, because a function that calls itself is among its own globals.
    """
    if is_importable(function):
        return str(function.__qualname__)
    return _caching, (function.cache_parameters(),), function.__wrapped__, None, None, _fill


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, which also pickles functions with a cache by value."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {CodeType: _reduce_code, _CACHING: _reduce_caching}, cloudpickle.Pickler.dispatch_table
    )


def _caching(parameters: dict[str, Any]) -> Any:
    """A function with a cache, still without the function that it calls."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return call.function(*args, **kwargs)  # type: ignore[attr-defined]

    return lru_cache(**parameters)(call)


def _fill(caching: Any, function: Callable[..., Any]) -> None:
    caching.__wrapped__.function = function
    update_wrapper(caching, function)
