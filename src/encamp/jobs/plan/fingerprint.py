"""Fingerprints of tasks: digests that change when their code or their arguments change.

The digest of a function covers its bytecode (so comments and line numbers do not count), its
defaults and closure, and what it uses from the user's own project: functions, classes, constants,
at any depth. For a module that it imports while it runs, the whole file counts. Installed packages
and the standard library count by name only. Another Python version compiles to other bytecode and
so gives other digests. The order of sets and dictionaries does not count; the bytes of arrays do.

Functions, classes and objects that refer to each other in cycles are visited once: they are
numbered in the order of the visit, and count by their number after that.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from encamp.jobs.plan.plain_value_digest import SINGLE, NotPlainError, digest_of_ordered, ordered
from encamp.wire.global_names import global_names

_INSTALLED = tuple(
    {
        str(Path(sysconfig.get_path(name)).resolve())
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {str(Path(__file__).parents[2])}
)


def fingerprint(value: object) -> str:
    """A digest of ``value`` (blake2b-128, hexadecimal), the same in every process."""
    try:
        return digest_of_ordered(ordered(value)).hex()
    except NotPlainError:
        return _Hasher().digest(value).hex()


class _Hasher:
    def __init__(self, met: dict[object, tuple[int, object]] | None = None) -> None:
        # By id, files by path; values are kept, too, since an id is used again after its object.
        self._met: dict[object, tuple[int, object]] = {} if met is None else dict(met)
        self._enclosing: dict[int, int] = {}

    def digest(self, value: Any) -> bytes:
        kind = type(value)
        is_flat = kind in _LISTS and SINGLE.issuperset(map(type, value))
        if is_flat or kind in SINGLE or (kind is dict and not value):
            with suppress(NotPlainError):
                return digest_of_ordered(value)
        if isinstance(value, _PLAIN):
            return self._digest(value)
        if isinstance(value, _CONTAINERS):
            return self._container(value) if value else self._digest(value)
        if id(value) in self._met:
            return self._join("met", [str(self._met[id(value)][0]).encode()])
        self._met[id(value)] = (len(self._met), value)
        return self._digest(value)

    def _container(self, value: object) -> bytes:
        """Equal lists are equal, whether they are one list or two; only cycles need a number."""
        if id(value) in self._enclosing:
            return self._join("circle", [str(self._enclosing[id(value)]).encode()])
        self._enclosing[id(value)] = len(self._enclosing)
        try:
            return self._digest(value)
        finally:
            del self._enclosing[id(value)]

    def _extended(self, value: Any) -> bytes:
        """A plain value of a subclass: its class counts, and what that adds to the value."""
        if isinstance(value, Enum):
            return self._join("enum", map(self.digest, (type(value), value.value)))
        added = (getattr(value, "__dict__", None), getattr(value, "default_factory", None))
        parts = [self.digest(type(value)), self._digest(value, exact=True), self.digest(added)]
        return self._join("extended", parts)

    def _digest(self, value: object, *, exact: bool = False) -> bytes:
        """``exact``: as if its class added nothing to the value."""
        if not exact and isinstance(value, _EXTENDED) and type(value) not in _EXACT:
            return self._extended(value)
        kind = type(value).__qualname__
        match value:
            case int():  # Python limits how many decimal digits it writes of an integer
                return self._join(kind, [hex(value).encode()])
            case None | float() | complex():
                return self._join(kind, [repr(value).encode()])
            case str():
                return self._join(kind, [value.encode("utf-8", "surrogatepass")])
            case bytes() | bytearray():
                return self._join(kind, [bytes(value)])
            case PurePath():
                return self._join("path", [str(value).encode("utf-8", "surrogateescape")])
            case tuple() | list():
                return self._join(kind, map(self.digest, value))
            case set() | frozenset():
                return self._join(kind, sorted(map(self._separate_digest, value)))
            case dict():
                return self._join(kind, self._items(value))
            case _:
                return self._code_or_object(value)

    def _items(self, value: dict[Any, object]) -> list[bytes]:
        """The digests of a dictionary's items in an order that does not depend on theirs."""
        if all(type(key) is str for key in value):
            return [self.digest(part) for key in sorted(value) for part in (key, value[key])]
        return sorted(map(self._separate_digest, value.items()))

    def _separate_digest(self, value: object) -> bytes:
        """The digest of a value whose position is unknown, numbered separately."""
        apart = _Hasher(self._met)
        apart._enclosing = dict(self._enclosing)
        return apart.digest(value)

    def _code_or_object(self, value: object) -> bytes:
        match value:
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return self._join("method", map(self.digest, (value.__func__, value.__self__)))
            case functools.partial():
                return self.digest(("partial", value.func, value.args, value.keywords))
            case staticmethod() | classmethod():
                return self.digest((type(value).__name__, value.__func__))
            case property():
                return self.digest(("property", value.fget, value.fset, value.fdel))
            case types.CodeType():
                return self._code(value)
            case types.BuiltinFunctionType() if not isinstance(value.__self__, types.ModuleType):
                return self._join("method", [_name(value), self.digest(value.__self__)])
            case types.ModuleType() | types.BuiltinFunctionType():
                return self._join("name", [_name(value)])
            case type():
                return self._class(value)
            case _:
                return self._object(value)

    def _function(self, function: types.FunctionType) -> bytes:
        function = _unwrapped(function)
        if not _is_own(function):
            return self._join("function", [_name(function)])
        cells = [_content(cell) for cell in function.__closure__ or ()]
        parts = [function.__code__, function.__defaults__, function.__kwdefaults__, cells]
        used = _used_globals(function)
        package = function.__globals__.get("__package__") or ""
        late = [self._file(*found) for found in _imported_files(function.__code__, package)]
        return self._join("function", [*map(self.digest, (*parts, used)), *late])

    def _file(self, file: str, package: str) -> bytes:
        """A module that is imported only while the function runs; comments do not count."""
        if file in self._met:
            return self._join("met", [str(self._met[file][0]).encode()])
        self._met[file] = (len(self._met), None)
        try:
            code = compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError):
            return self._join("unreadable", [])
        late = [self._file(*found) for found in _imported_files(code, package)]
        return self._join("file", [self.digest(code), *late])

    def _code(self, code: types.CodeType) -> bytes:
        constants = [c for c in code.co_consts if c is not _docstring(code)]
        shape = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        parts = (code.co_code, code.co_exceptiontable, digest_of_ordered((names, shape)))
        return self._join("code", (*parts, self.digest(constants)))

    def _class(self, cls: type) -> bytes:
        if not _is_own(cls):
            return self._join("class", [_name(cls)])
        body = {name: value for name, value in vars(cls).items() if name not in _NOT_CODE}
        parts = (cls.__bases__, body, type(cls))
        return self._join("class", [_name(cls), *map(self.digest, parts)])

    def _object(self, value: Any) -> bytes:
        if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            facts = (type(value).__name__, str(value.dtype), str(getattr(value, "shape", ())))
            if not value.dtype.hasobject:
                return self._join("array", [self.digest(facts), value.tobytes()])
            return self.digest((facts, value.tolist()))
        inner = getattr(value, "__wrapped__", None)  # functools.cache and its like
        if isinstance(inner, types.FunctionType):
            return self.digest(("wrapped", type(value).__qualname__, inner))
        try:
            reduced = _reduced(value)
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
            length = len(part).to_bytes(8, "little")
            if len(part) < _SHORT:
                hashed.update(length + part)
            else:
                hashed.update(length)
                hashed.update(part)
        return hashed.digest()


_SHORT = 100


def _reduced(value: Any) -> Any:
    """The reduced form of an object, as pickled; some types have no method for it."""
    from cloudpickle import CloudPickler

    reduce = CloudPickler.dispatch_table.get(type(value))
    return value.__reduce_ex__(4) if reduce is None else reduce(value)


def _unwrapped(function: types.FunctionType) -> types.FunctionType:
    """The user's function inside a decorator of an installed package."""
    inner = getattr(function, "__wrapped__", None)
    if isinstance(inner, types.FunctionType) and not _is_own(function):
        return _unwrapped(inner)
    return function


def _docstring(code: types.CodeType) -> object:
    """A function's docstring; other code (a comprehension, a class body) has none here."""
    flag = getattr(inspect, "CO_HAS_DOCSTRING", None)  # since Python 3.14
    if flag is not None:
        has_one = bool(code.co_flags & flag)
    else:
        has_one = not code.co_name.startswith("<") and bool(code.co_flags & inspect.CO_OPTIMIZED)
    first = code.co_consts[0] if has_one and code.co_consts else None
    return first if isinstance(first, str) else _NOTHING


_NOTHING = object()
_IMPORT = dis.opmap["IMPORT_NAME"]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, PurePath)
_EXTENDED = (int, float, complex, str, bytes, bytearray, tuple, list, set, frozenset, dict, Enum)
_EXACT = frozenset(
    {bool, int, float, complex, str, bytes, bytearray, tuple, list, set, frozenset, dict}
)
_LISTS = (tuple, list)
_CONTAINERS = (tuple, list, set, frozenset, dict, types.CodeType)
_NOT_CODE = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__firstlineno__",
    "__static_attributes__",
    "__annotations_cache__",
}
"""Attributes of a class that do not affect its behaviour, or whose order varies."""


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
    real = Path(file).resolve()
    return not any(real.is_relative_to(folder) for folder in _INSTALLED)


def own_module(module: types.ModuleType | None) -> bool:
    """Whether a module belongs to the user's project: neither installed nor built in."""
    if module is None or module.__name__ in sys.builtin_module_names:
        return False
    file = getattr(module, "__file__", None)
    return module.__name__ == "__main__" if file is None else _own_file(file)


def _is_own(value: Callable[..., Any]) -> bool:
    code = getattr(value, "__code__", None)
    if code is not None and Path(code.co_filename).is_absolute():
        return _own_file(code.co_filename)
    module = sys.modules.get(value.__module__ or "")
    return code is not None if module is None else own_module(module)


def _used_globals(function: types.FunctionType) -> dict[str, object]:
    """The globals that a function and its inner functions use; for own modules, name by name."""
    code = function.__code__
    return _used(global_names(code), _names(code), function.__globals__, "", ())


def _used(
    read: Iterable[str],
    names: set[str],
    space: dict[str, Any],
    prefix: str,
    inside: tuple[str, ...],
) -> dict[str, object]:
    """The values of a namespace that code reads; ``names`` are those of the code."""
    used: dict[str, object] = {}
    for name in sorted(space.keys() & set(read)):
        value = space[name]
        if not isinstance(value, types.ModuleType) or not own_module(value):
            used[prefix + name] = value
        elif value.__name__ not in inside:
            deeper = (*inside, value.__name__)
            used |= _used(names, names, vars(value), f"{prefix}{name}.", deeper)
    return used


def _imported_files(code: types.CodeType, package: str) -> list[tuple[str, str]]:
    """File and package of own modules that code, or an inner function, imports when it runs."""
    found = {
        (file, _package(name, file)) for name in _imports(code, package) if (file := _file_of(name))
    }
    return sorted(found)


def _package(module: str, file: str) -> str:
    return module if file.endswith("__init__.py") else module.rpartition(".")[0]


def _imports(code: types.CodeType, package: str) -> Iterator[str]:
    if _IMPORT in code.co_code[::2]:
        steps = [s for s in dis.get_instructions(code) if s.opname not in ("EXTENDED_ARG", "CACHE")]
        for level, names, step in zip(steps, steps[1:], steps[2:], strict=False):
            if step.opcode == _IMPORT:
                yield from _modules(step.argval, level.argval, names.argval or (), package)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _imports(inner, package)


def _modules(name: str, level: int, names: Iterable[str], package: str) -> Iterator[str]:
    try:
        full = importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:
        return
    yield full
    yield from (f"{full}.{inner}" for inner in names)


def _file_of(module: str) -> str | None:
    """The source file of an own module, found without importing anything."""
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names:
        return None
    for folder in sys.path:
        place = Path(folder or ".", *parts)
        for file in (place / "__init__.py", place.parent / f"{place.name}.py"):
            if file.is_file():
                return str(file.absolute()) if _own_file(str(file)) else None
    return None


def _names(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))
