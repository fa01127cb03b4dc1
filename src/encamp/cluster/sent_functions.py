"""How functions are sent: pickled once, sent to each slot once, and by number after that.

A function of an importable module is sent by reference; a function of a script or notebook, or a
nested one, by value (cloudpickle), with everything that it uses, in its present state. It is
pickled again for each call unless everything it uses is of a kind that cannot change.

Slots forget functions that are unlikely to be called again: those that were replaced by a newer
version, and the oldest if there are many or large ones (`RecentFunctions`). A forgotten function
that is called again is sent again.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, ref

from encamp.cluster.task import Timing
from encamp.errors import CannotTravel, text_of
from encamp.wire.frames import Parts
from encamp.wire.global_names import global_names
from encamp.wire.importable import is_importable, is_importable_module, value_of
from encamp.wire.pickling import ENCLOSED, PLAIN, dump_arguments, enclosed
from encamp.wire.rng_warnings import RandomNumberWarnings, has_generator, uses_generator

_FIXED = (
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
)

_SIGNALS_DEFERRED = nullcontext()
_CACHING = type(functools.lru_cache(len))
_WITHOUT_STATE = types.FunctionType, types.BuiltinFunctionType, type, _CACHING
"""Types that are sent as functions; other callables are sent as arguments."""


_NOT_CALLED = "give the function and its arguments, as in spawn(f, x), not spawn(f(x))"
MOST_KEPT = 1000
"""Maximum number of functions in a slot, in addition to those of its calls."""
MOST_BYTES = 64 << 20
"""Maximum number of bytes of their pickles; the last one may be larger."""


class Function:
    """A function that was pickled."""

    __slots__ = (
        "__weakref__",
        "by_value",
        "function",
        "name",
        "number",
        "payload",
        "random",
        "state",
        "timing",
    )

    def __init__(
        self, number: int, function: Callable[..., Any], payload: bytes, *, by_value: bool
    ) -> None:
        self.number = number
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__name__)
        self.payload = payload
        self.by_value = by_value
        self.timing = Timing()
        self.state: Hashable = None
        """The state that it used when it was pickled; None if it is sent by reference."""
        self.random = False
        """Whether it, or its module, has a random number generator."""


class RecentFunctions:
    """The latest functions, which slots may keep. ``changes`` grows when some are removed."""

    def __init__(self) -> None:
        self.numbers: dict[int, Function] = {}
        self.changes = 0
        self._bytes = 0
        self.latest: Function | None = None

    def add(self, function: Function) -> None:
        """Keep a function as the ``latest``; removes the oldest if there are too many."""
        self.latest = function
        if self.numbers.pop(function.number, None) is None:
            self._bytes += len(function.payload)
        self.numbers[function.number] = function
        while len(self.numbers) > 1 and (self._bytes > MOST_BYTES or len(self.numbers) > MOST_KEPT):
            self.drop(next(iter(self.numbers.values())))

    def drop(self, function: Function) -> None:
        """Do not keep a function any longer; does nothing if it is not kept."""
        if function is self.latest:
            self.latest = None
        if self.numbers.pop(function.number, None) is not None:
            self._bytes -= len(function.payload)
            self.changes += 1


def apply(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a callable with state (a bound method, a partial), which is sent as an argument."""
    return function(*args, **kwargs)


def name_of_called(function: Function, args: tuple[Any, ...]) -> str:
    """The name of the called function, even if it is an argument of `apply`."""
    if function.function is not apply:
        return function.name
    called = args[0]
    while isinstance(called, functools.partial):
        called = called.func
    return str(getattr(called, "__qualname__", type(called).__name__))


class Functions:
    """The functions of one cluster, or those of one initializer, which slots load separately.

    A function that is sent by value has its own globals wherever it is loaded. Globals that an
    initializer sets are only for the functions that are called with it.
    """

    def __init__(
        self,
        all_of_them: Functions | None = None,
        signals_deferred: AbstractContextManager[None] = _SIGNALS_DEFERRED,
    ) -> None:
        root = all_of_them
        self._signals_deferred: AbstractContextManager[None] = (
            root._signals_deferred if root else signals_deferred
        )
        """For pickling: an exception of a signal handler must not count as its error."""
        self.numbers: count[int] = root.numbers if root else count(1)
        self.kept: RecentFunctions = root.kept if root else RecentFunctions()
        self.rng_warnings: RandomNumberWarnings = (
            root.rng_warnings if root else RandomNumberWarnings()
        )
        self._modules: set[types.ModuleType] = root._modules if root else set()
        self._families: dict[int, tuple[object, Functions]] = {}
        # Both weak, so that only `kept` decides how long functions live.
        self._known: WeakKeyDictionary[Any, ref[Function]] = WeakKeyDictionary()
        self._named: dict[tuple[str, str], ref[Function]] = {}
        """By module and name, functions that are sent by value."""
        self._apply = self._by_reference(apply)
        self._last: tuple[Any, Function] = apply, self._apply
        """The last function that was sent by reference, which is often the next one, too."""

    def of(self, initializer: object) -> Functions:
        """The functions called with an initializer; this object if it is None."""
        if initializer is None:
            return self
        if (found := self._families.get(id(initializer))) is None:
            # The initializer is kept, so that its id is not used again.
            found = self._families[id(initializer)] = initializer, Functions(self)
        return found[1]

    def forget(self, initializer: object) -> None:
        """Forget the functions called with an initializer, which will not be called any more."""
        self.kept.changes += 1
        found = self._families.pop(id(initializer), None)
        if found is not None:
            for known in list(found[1]._known.values()):
                if (function := known()) is not None:
                    self.kept.drop(function)

    def find(
        self, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Function, tuple[Any, ...]]:
        """The function to send, and the arguments for it. Raises `CannotTravel`."""
        if function is self._last[0]:
            return self._last[1], args
        if not isinstance(function, _WITHOUT_STATE):
            if not callable(function):
                raise CannotTravel(repr(function), "it cannot be called", _NOT_CALLED)
            return self._apply, (function, *args)
        known = self._known.get(function)
        found = None if known is None else known()
        if found is not None:
            if found.random and not found.by_value:
                self.rng_warnings.of_function(function)
            if found.state is None:
                self._last = function, found
            if found.state is None or (found.state == self._state(function) and found.state != ()):
                if found is not self.kept.latest:
                    self.kept.add(found)
                return found, args
        return self._pickled(function), args

    def pickled(
        self,
        function: Function,
        arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
        task: int,
    ) -> tuple[bytes, Parts]:
        """The arguments of a call, as `enclosed` divides them; warns of random number generators.

        Pickling may run any code and raise anything, except that of numbers and the like.
        """
        args, kwargs = arguments
        if not kwargs and PLAIN.issuperset(map(type, args)):
            data = pickle.dumps((args, {}), 5)
            if len(data) <= ENCLOSED:
                return data, []
        parts = dump_arguments(args, kwargs)
        if has_generator(parts[0]):
            named = name_of_called(function, args)
            self.rng_warnings.of_arguments(named, (*args, *kwargs.values()), task)
        return enclosed(parts)

    def _found(self, function: Any) -> Function | None:
        known = self._known.get(function)
        return None if known is None else known()

    def _pickled(self, function: Any) -> Function:
        if self._is_importable(function):
            found = self._by_reference(function)
        else:
            found = self._by_value(function)
        self._known[function] = ref(found)
        self.kept.add(found)
        return found

    def _is_importable(self, function: Any) -> bool:
        return is_importable(function) and sys.modules[function.__module__] not in self._modules

    def _by_reference(self, function: Any) -> Function:
        payload = pickle.dumps(function, 5)
        found = Function(next(self.numbers), function, payload, by_value=False)
        found.random = uses_generator(function)
        return found

    def _by_value(self, function: Any) -> Function:
        with self._signals_deferred:
            payload, state = self._dump(function), self._state(function)
        old = self._found(function)
        if old is not None and old.by_value and old.payload == payload:
            old.state = state
            if old.random:
                self.rng_warnings.of_function(function)
            return old
        found = Function(next(self.numbers), function, payload, by_value=True)
        found.state = state
        found.random = has_generator(payload) or uses_generator(function)
        for replaced in (old, self._redefined(function, found)):
            if replaced is not None:
                self.kept.drop(replaced)
        return found

    def _redefined(self, function: Any, found: Function) -> Function | None:
        """The previous function of this name, as in a cell that was run again."""
        name = function.__module__, getattr(function, "__qualname__", "")
        if "<" in name[1] or value_of(*name) is not function:
            return None
        before = self._named.get(name)
        self._named[name] = ref(found)
        return None if before is None else before()

    def _dump(self, function: Any) -> bytes:
        from encamp.wire.by_value import dump_with_modules

        try:
            return dump_with_modules(function, self._modules)
        except Exception as exc:
            name = getattr(function, "__qualname__", repr(function))
            raise CannotTravel(name, text_of(exc)) from exc

    def _state(self, function: Any, met: frozenset[int] = frozenset()) -> tuple[Any, ...]:
        """The objects that a function uses, for comparison; empty if they may change in place."""
        if isinstance(function, _CACHING):
            function = function.__wrapped__
        if not isinstance(function, types.FunctionType):
            return ()
        code, known, own = function.__code__, function.__globals__, function.__dict__
        used = [*map(_content, function.__closure__ or ())]
        used += map(known.__getitem__, filter(known.__contains__, global_names(code)))
        used += (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        state: list[Any] = [code, *own]
        for value in (*used, *own.values()):
            if isinstance(value, _CACHING):
                value = value.__wrapped__
            if isinstance(value, types.FunctionType) and not self._is_importable(value):
                inner = (0,) if id(value) in met else self._state(value, met | {id(function)})
                if inner == ():
                    return ()
                state.append((value, inner))
            elif self._is_fixed(value):
                signed = isinstance(value, float | complex)  # 0.0 and -0.0 are equal
                state.append((type(value), repr(value) if signed else value))
            else:
                return ()
        return tuple(state)

    def _is_fixed(self, value: Any) -> bool:
        """Whether a value cannot change, or is sent by its name."""
        if isinstance(value, types.FunctionType):
            return True
        if isinstance(value, types.ModuleType):
            return is_importable_module(value) and value not in self._modules
        if isinstance(value, types.BuiltinFunctionType):  # or a method, such as `list.append`
            return value.__self__ is None or isinstance(value.__self__, types.ModuleType)
        return type(value) in _FIXED

    def again_by_value(self, function: Function, module: str) -> Function | None:
        """The function, with a module that a host could not import; None if that is useless."""
        found = sys.modules.get(module)
        if found is None or (found in self._modules and function.by_value):
            return None
        if "site-packages" in (getattr(found, "__file__", None) or "site-packages"):
            return None
        self._modules.add(found)
        self._last = apply, self._apply
        self._known.pop(function.function, None)
        return self._pickled(function.function)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None
