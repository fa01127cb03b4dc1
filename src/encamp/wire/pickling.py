"""Pickling values for other processes, with large buffers beside the pickle.

Classes and functions of importable modules are sent by reference, those of scripts and notebooks by
value (cloudpickle). Buffers (NumPy arrays and the like) are sent out of band, PEP 574.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType, TracebackType
from typing import Any

from encamp.errors import CannotTravel, Stopped, name_of, text_of, words_of
from encamp.wire.frames import Buffer, Parts

_SMALL = 4096
"""Smaller buffers stay in the pickle, because a separate part would take longer."""
PLAIN = frozenset({int, float, bool, str, type(None)})
"""Types whose values have no buffers, and whose pickling runs no other code."""
_UNDERSCORE = ord("_")
"""Looking for one byte takes a tenth of the time of looking for a word."""
_LARGE = 1 << 20
"""An argument or result that is a string or bytes of this length gets its own part."""
ENCLOSED = 1 << 16
"""Pickles up to this size are in the envelope; longer ones follow it, to be copied less often."""
_MOST = 1000
"""Maximum number of buffers with their own parts: the parts of a message are limited."""


def dump(value: object) -> Parts:
    """The pickle of ``value`` and its large buffers. Raises whatever its pickling raises."""
    kind = type(value)
    if kind in PLAIN or (kind is tuple and PLAIN.issuperset(map(type, value))):  # type: ignore[call-overload]
        data = pickle.dumps(value, 5)
        if len(data) < _LARGE:
            return [data]
    if kind in _MAY_BE_LARGE:
        value = _large_out_of_band(value)
    buffers: Parts = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _SMALL or len(buffers) == _MOST:
            return True
        buffers.append(view)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=keep)
        if b"__main__" not in data:
            return [data, *buffers]
    except Exception:  # noqa: S110, BLE001 - it has no importable name: pickled by value
        pass
    from encamp.wire.by_value import dump_by_value  # imported here, because few slots need it

    buffers.clear()
    return [dump_by_value(value, keep), *buffers]


_MAY_BE_LARGE = frozenset({str, bytes, bytearray, tuple})


def _large_out_of_band(value: Any) -> Any:
    """The value with `_OutOfBand` in place of large strings and bytes."""
    if type(value) is not tuple:
        return _OutOfBand(value) if len(value) >= _LARGE else value
    # Not of bytearrays: one that occurs again within the value must stay the same object.
    large = {
        id(item): _OutOfBand(item)
        for item in value
        if type(item) in (str, bytes) and len(item) >= _LARGE
    }
    return tuple(large.get(id(item), item) for item in value) if large else value


class _OutOfBand:
    """A string or bytes, to be pickled as a buffer, so without a copy in the pickle."""

    def __init__(self, value: str | bytes | bytearray) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._value, str):
            return _text, (pickle.PickleBuffer(self._value.encode("utf-8", "surrogatepass")),)
        kind = bytes if isinstance(self._value, bytes) else _changeable
        return kind, (pickle.PickleBuffer(self._value),)


def _text(data: Buffer) -> str:
    return str(data, "utf-8", "surrogatepass")


def _changeable(data: Buffer) -> bytearray:
    return data if isinstance(data, bytearray) else bytearray(data)


def enclosed(parts: Parts) -> tuple[bytes, Parts]:
    """Divide the parts of a value: what goes into the envelope, and what follows it.

    `disclosed` joins them again. A long pickle follows the envelope, which is copied more than once
    and has a limited size.
    """
    return (bytes(parts[0]), parts[1:]) if len(parts[0]) <= ENCLOSED else (b"", parts)


def disclosed(payload: bytes, buffers: Parts) -> Parts:
    """The parts of a value that were divided by `enclosed`."""
    return [payload, *buffers] if payload else buffers


def _keep_small(buffer: pickle.PickleBuffer) -> bool:
    if buffer.raw().nbytes < _SMALL:
        return True
    raise BufferError


def dump_small(value: object) -> bytes | None:
    """The pickle of ``value`` if it has no large buffers; None if `dump` is needed."""
    if type(value) in _MAY_BE_LARGE and len(value) > _SMALL:  # type: ignore[arg-type]
        return None
    try:
        data = pickle.dumps(value, 5, buffer_callback=_keep_small)
    except Exception:  # noqa: BLE001 - an object's own code may raise any
        return None
    return None if _UNDERSCORE in data and b"__main__" in data else data


def dump_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parts:
    """`dump` for the arguments of a call; faster if they are numbers or the like, as most are."""
    if not kwargs and PLAIN.issuperset(map(type, args)):
        data = pickle.dumps((args, {}), 5)
        if len(data) < _LARGE:
            return [data]
    return dump((_large_out_of_band(args), kwargs))


def dump_as(what: str, value: object) -> Parts:
    """`dump`. Raises `CannotTravel`, which names the value as ``what``."""
    try:
        return dump(value)
    except (Exception, SystemExit) as exc:  # a value's own code may raise either
        raise cannot_travel(what, exc) from exc


def dump_result(value: object) -> Parts:
    """`dump` for the value of a call. Raises nothing but `CannotTravel`."""
    try:
        return dump(value)
    except BaseException as exc:
        raise cannot_travel("its result", exc) from exc


def cannot_travel(what: str, exc: BaseException) -> CannotTravel:
    """The error for a value whose pickling failed."""
    return CannotTravel(what, text_of(exc), "send its content instead, such as a list or a path")


def dump_failure(exc: BaseException) -> Parts:
    """`dump` for the error of a call, with its traceback. Never raises an exception."""
    text = traceback_of(exc)
    try:
        error = pickle.dumps(dump(sendable(exc)), 5)
    except BaseException:  # noqa: BLE001 - there must be a result in any case
        error = pickle.dumps(dump(_in_words(exc)), 5)
    return [pickle.dumps((error, text), 5)]


def load_failure(parts: Sequence[Buffer]) -> tuple[BaseException, str]:
    """The error and traceback from `dump_failure`. Never raises an exception.

    If the error cannot be unpickled, it is a RuntimeError with the reason.
    """
    data, text = pickle.loads(parts[0])  # noqa: S301 - see `load`
    try:
        error = load(pickle.loads(data))  # noqa: S301 - see `load`
    except BaseException as exc:  # noqa: BLE001 - unpickling runs the error's own code
        return RuntimeError(f"its exception cannot be unpickled here: {words_of(exc)}"), text
    if not issubclass(type(error), BaseException):
        error = RuntimeError(f"its exception cannot be unpickled here: it became {repr_of(error)}")
    return error, text


def load(parts: Sequence[Buffer]) -> Any:
    """The value of a `dump`. Safe only for bytes from encamp's own processes."""
    if len(parts) == 1:
        return pickle.loads(parts[0])  # noqa: S301 - see above
    # The receiver of an array may write to it.
    buffers = [bytearray(part) if isinstance(part, bytes) else part for part in parts[1:]]
    return pickle.loads(parts[0], buffers=buffers)  # noqa: S301 - see above


load_small = pickle.loads
"""`load` for what `dump_small` has pickled."""


def portable_error(exc: BaseException) -> BaseException:
    """``exc`` if it can be pickled, otherwise a RuntimeError with the same text."""
    return BaseException.with_traceback(exc, None) if _can_be_pickled(exc) else _in_words(exc)


def sendable(exc: BaseException) -> object:
    """A picklable form of ``exc``: itself, or `_Rebuilt`, or an error with the same text."""
    if _can_be_pickled(exc):
        return BaseException.with_traceback(exc, None)
    try:
        rebuilt = _Rebuilt(exc)
    except Stopped:
        raise
    except BaseException:  # noqa: BLE001 - whatever its own code raises
        return _in_words(exc)
    return rebuilt if _can_be_pickled(rebuilt) else _in_words(exc)


def _in_words(exc: BaseException) -> RuntimeError:
    return RuntimeError(words_of(exc))


def repr_of(value: object) -> str:
    """The `repr`, or a message about the exception that it raised."""
    try:
        return repr(value)
    except Stopped:
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever its own code raises
        return f"something whose repr raises {name_of(exc)}"


def frames_of(exc: BaseException) -> TracebackType | None:
    """An error's ``__traceback__``, read without running the error's own code."""
    found: TracebackType | None = vars(BaseException)["__traceback__"].__get__(exc)
    return found


def traceback_of(exc: BaseException) -> str:
    """An error as Python prints it, or nearly so if the error's own code fails."""
    try:
        return "".join(traceback.format_exception(exc))
    except Stopped:
        raise
    except BaseException:  # noqa: BLE001 - whatever its own code raises
        frames = traceback.format_tb(frames_of(exc))
        return "".join(["Traceback (most recent call last):\n", *frames, words_of(exc), "\n"])


class _Rebuilt:
    """An exception, to be unpickled without its ``__init__``, which may need other arguments."""

    def __init__(self, exc: BaseException) -> None:
        state = {name: value for name, value in _state(exc).items() if _can_be_pickled(value)}
        args = exc.args
        if isinstance(exc, BaseExceptionGroup):
            args = exc.message, [sendable(one) for one in exc.exceptions]
        args = tuple(arg if _can_be_pickled(arg) else repr_of(arg) for arg in args)
        self._parts = type(exc), args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._parts


def _state(exc: BaseException) -> dict[str, Any]:
    """The attributes of an exception, with those of built-in classes (``errno``, ``name``)."""
    state: dict[str, Any] = {}
    for kind in type(exc).__mro__:
        if kind is BaseException:
            break
        for name, found in vars(kind).items():
            kept = isinstance(found, MemberDescriptorType | GetSetDescriptorType)
            if kept and not name.startswith("__"):
                state[name] = getattr(exc, name, None)
    return {name: value for name, value in state.items() if value is not None} | vars(exc)


def _rebuild(
    kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    try:
        exc = kind.__new__(kind, *args)
    except TypeError:  # its own ``__new__`` needs other arguments
        base = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        exc = base.__new__(kind, *args)
    for name, value in {"args": args, **state}.items():
        with suppress(AttributeError, TypeError):  # a read-only attribute
            BaseException.__setattr__(exc, name, value)
    return exc


def _can_be_pickled(value: object) -> bool:
    try:
        load(dump(value))
    except Stopped:
        raise
    except BaseException:  # noqa: BLE001 - whatever its own code raises
        return False
    return True


class NotImportable(Exception):
    """A function's module cannot be imported where the function was to run."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


class NotBegun(Exception):
    """Sent in place of a result when the slot ends before the call: it must run elsewhere."""


class RemoteTraceback(Exception):
    """The traceback of a task's error in its slot. It is the cause of the error that is raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"
