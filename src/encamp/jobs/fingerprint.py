"""Telling whether code or arguments changed: one digest for what a step would do.

The digest of a function covers its bytecode (so comments and line numbers do not count), its
defaults and closure, and what it uses of the user's own project: functions, classes, constants,
at any depth. Installed packages and the standard library count by name only. Another Python
version compiles other bytecode and so gives other digests. The order of sets and dictionaries
does not count; the bytes of arrays do.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

_INSTALLED = tuple(
    {
        str(Path(sysconfig.get_path(name)).resolve())
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {str(Path(__file__).parents[1])}
)


def fingerprint(value: object) -> str:
    """A digest of ``value`` (blake2b-128, hexadecimal), the same in every process."""
    return _Hasher().digest(value).hex()


class _Hasher:
    def __init__(self) -> None:
        self._inside: dict[int, int] = {}  # ids of what encloses this value: cycles, recursion

    def digest(self, value: object) -> bytes:
        if id(value) in self._inside:
            return self._join("cycle", [str(self._inside[id(value)]).encode()])
        self._inside[id(value)] = len(self._inside)
        try:
            return self._digest(value)
        finally:
            del self._inside[id(value)]

    def _digest(self, value: object) -> bytes:
        kind = type(value).__qualname__
        match value:
            case None | bool() | int() | float() | complex() if not isinstance(value, Enum):
                return self._join(kind, [repr(value).encode()])
            case str() if not isinstance(value, Enum):
                return self._join(kind, [value.encode("utf-8", "surrogatepass")])
            case bytes() | bytearray():
                return self._join(kind, [bytes(value)])
            case PurePath():
                return self._join("path", [str(value).encode("utf-8", "surrogateescape")])
            case tuple() | list():
                return self._join(kind, map(self.digest, value))
            case set() | frozenset():
                return self._join(kind, sorted(map(self.digest, value)))
            case dict():
                pairs = (self.digest(k) + self.digest(v) for k, v in value.items())
                return self._join(kind, sorted(pairs))
            case Enum():
                return self._join("enum", [_name(type(value)), value.name.encode()])
            case _:
                return self._code_or_object(value)

    def _code_or_object(self, value: object) -> bytes:
        match value:
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return self._join("method", map(self.digest, (value.__func__, value.__self__)))
            case functools.partial():
                return self.digest(("partial", value.func, value.args, value.keywords))
            case types.CodeType():
                return self._code(value)
            case types.ModuleType() | types.BuiltinFunctionType():
                return self._join("name", [_name(value)])
            case type():
                return self._class(value)
            case _:
                return self._object(value)

    def _function(self, function: types.FunctionType) -> bytes:
        function = _unwrapped(function)
        if not _own(function):
            return self._join("function", [_name(function)])
        cells = [_content(cell) for cell in function.__closure__ or ()]
        parts = [function.__code__, function.__defaults__, function.__kwdefaults__, cells]
        used = _used_globals(function)
        return self._join("function", [self.digest(part) for part in (*parts, used)])

    def _code(self, code: types.CodeType) -> bytes:
        constants = [c for c in code.co_consts if c is not _docstring(code)]
        shape = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        parts = (code.co_code, constants, code.co_names, code.co_varnames, shape)
        return self._join("code", map(self.digest, parts))

    def _class(self, cls: type) -> bytes:
        if not _own(cls):
            return self._join("class", [_name(cls)])
        skip = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"}
        body = {name: value for name, value in vars(cls).items() if name not in skip}
        return self._join("class", [_name(cls), *map(self.digest, (cls.__bases__, body))])

    def _object(self, value: Any) -> bytes:
        if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            facts = (str(value.dtype), str(getattr(value, "shape", ())))
            if not value.dtype.hasobject:
                return self._join("array", [self.digest(facts), value.tobytes()])
            return self.digest((facts, value.tolist()))
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 - what has no state to compare counts by its type
            return self._join("opaque", [self.digest(type(value))])
        if isinstance(reduced, str):
            return self._join("global", [reduced.encode()])
        listed = [list(part) if index > 2 and part else part for index, part in enumerate(reduced)]
        return self._join("object", map(self.digest, listed))

    @staticmethod
    def _join(kind: str, parts: Iterable[bytes]) -> bytes:
        hashed = hashlib.blake2b(kind.encode(), digest_size=16)
        for part in parts:
            hashed.update(len(part).to_bytes(8, "little"))
            hashed.update(part)
        return hashed.digest()


def _unwrapped(function: types.FunctionType) -> types.FunctionType:
    """What a decorator of an installed package wraps, so that the user's own code counts."""
    inner = getattr(function, "__wrapped__", None)
    if isinstance(inner, types.FunctionType) and not _own(function):
        return _unwrapped(inner)
    return function


def _docstring(code: types.CodeType) -> object:
    first = code.co_consts[0] if code.co_consts else None
    return first if isinstance(first, str) and code.co_name != "<lambda>" else _NOTHING


_NOTHING = object()


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _name(value: Any) -> bytes:
    name = getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__))
    return f"{getattr(value, '__module__', '')}:{name}".encode()


@functools.cache
def _own_file(file: str) -> bool:
    return not str(Path(file).resolve()).startswith(_INSTALLED)


def own_module(module: types.ModuleType | None) -> bool:
    """Whether a module belongs to the user's project: neither installed nor built in."""
    if module is None or module.__name__ in sys.builtin_module_names:
        return False
    file = getattr(module, "__file__", None)
    return module.__name__ == "__main__" if file is None else _own_file(file)


def _own(value: Callable[..., Any]) -> bool:
    code = getattr(value, "__code__", None)
    if code is not None and Path(code.co_filename).is_absolute():
        return _own_file(code.co_filename)
    module = sys.modules.get(value.__module__ or "")
    return code is not None if module is None else own_module(module)


def _used_globals(function: types.FunctionType) -> dict[str, object]:
    """The globals that a function and its inner functions use, of own modules name by name."""
    names = _names(function.__code__)
    used: dict[str, object] = {}
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType) and own_module(value):
            used |= {f"{name}.{n}": getattr(value, n) for n in names if hasattr(value, n)}
        else:
            used[name] = value
    return used


def _names(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))
