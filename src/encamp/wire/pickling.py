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
"""Buffers below this size stay in the pickle: a part of their own would cost more."""
_PLAIN = frozenset({int, float, bool, str, type(None)})
"""Types whose values are pickled without any code of theirs, and have no buffers."""
_UNDERSCORE = ord("_")
"""To look for one byte takes a tenth of the time."""
_LARGE = 1 << 20
"""Texts and bytes from this length on are kept beside the pickle, too, where they are at hand."""
_ENCLOSED = 1 << 16
"""Bytes of pickles that stand in an envelope; longer ones follow it, without another copy."""
_MOST = 1000
"""Buffers that have parts of their own; a message cannot have any number of parts."""


def dump(value: object) -> Parts:
    """The pickle of ``value`` and its large buffers. Raises any error of its pickling."""
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and _PLAIN.issuperset(map(type, value))):  # type: ignore[call-overload]
        data = pickle.dumps(value, 5)
        if len(data) < _LARGE:
            return [data]
    if kind in _MAY_BE_LARGE:
        value = _relieved(value)
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
    except Exception:  # noqa: S110, BLE001 - what has no name to be found by goes by value
        pass
    from encamp.wire.by_value import dump_by_value  # most need it not: slots start quicker

    buffers.clear()
    return [dump_by_value(value, keep), *buffers]


_MAY_BE_LARGE = frozenset({str, bytes, bytearray, tuple})


def _relieved(value: Any) -> Any:
    """The same value with `_Beside` in place of large texts and bytes."""
    if type(value) is not tuple:
        return _Beside(value) if len(value) >= _LARGE else value
    # No bytearray, which may be in there again, and has to be the same then
    large = {
        id(item): _Beside(item)
        for item in value
        if type(item) in (str, bytes) and len(item) >= _LARGE
    }
    return tuple(large.get(id(item), item) for item in value) if large else value


class _Beside:
    """Pickles a text or bytes without a copy."""

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
    """The part of a value's pickle that goes into an envelope, and the rest; see `disclosed`.

    A long pickle goes into the rest: an envelope is copied more than once, and has a limit.
    """
    return (bytes(parts[0]), parts[1:]) if len(parts[0]) <= _ENCLOSED else (b"", parts)


def disclosed(payload: bytes, buffers: Parts) -> Parts:
    """The parts of a value, from both."""
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
    except Exception:  # noqa: BLE001 - whatever its own code raises
        return None
    return None if _UNDERSCORE in data and b"__main__" in data else data


def dump_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parts:
    """`dump` of both; faster for numbers and the like, which most calls get."""
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        data = pickle.dumps((args, {}), 5)
        if len(data) < _LARGE:
            return [data]
    return dump((_relieved(args), kwargs))


def dump_as(what: str, value: object) -> Parts:
    """`dump`. Raises `CannotTravel` that says ``what`` it was."""
    try:
        return dump(value)
    except Exception as exc:
        raise cannot_travel(what, exc) from exc


def dump_result(value: object) -> Parts:
    """`dump` for the value of a call, without interrupts; raises nothing else."""
    try:
        return dump(value)
    except BaseException as exc:
        raise cannot_travel("its result", exc) from exc


def cannot_travel(what: str, exc: BaseException) -> CannotTravel:
    """The error for a value whose pickling failed."""
    return CannotTravel(what, text_of(exc), "send its content instead, such as a list or a path")


def dump_failure(exc: BaseException) -> Parts:
    """The error of a call, with its traceback. Raises nothing, whatever ``exc`` is like."""
    text = traceback_of(exc)
    try:
        error = pickle.dumps(dump(sendable(exc)), 5)
    except BaseException:  # noqa: BLE001 - there has to be a result
        error = pickle.dumps(dump(_in_words(exc)), 5)
    return [pickle.dumps((error, text), 5)]


def load_failure(parts: Sequence[Buffer]) -> tuple[BaseException, str]:
    """The unpickled error; an error with its text if that fails."""
    data, text = pickle.loads(parts[0])  # noqa: S301 - see `load`
    try:
        error = load(pickle.loads(data))  # noqa: S301 - see `load`
    except BaseException as exc:  # noqa: BLE001 - unpickling runs the error's own code
        return RuntimeError(f"its exception cannot be unpickled here: {words_of(exc)}"), text
    if not issubclass(type(error), BaseException):
        error = RuntimeError(f"its exception cannot be unpickled here: it became {repr_of(error)}")
    return error, text


def load(parts: Sequence[Buffer]) -> Any:
    """The value; only for bytes from encamp's own processes."""
    if len(parts) == 1:
        return pickle.loads(parts[0])  # noqa: S301 - see above
    # Whoever gets an array may write to it.
    buffers = [bytearray(part) if isinstance(part, bytes) else part for part in parts[1:]]
    return pickle.loads(parts[0], buffers=buffers)  # noqa: S301 - see above


load_small = pickle.loads
"""`load` for what `dump_small` has pickled."""


def portable_error(exc: BaseException) -> BaseException:
    """``exc`` if it can be pickled, otherwise a RuntimeError with the same text."""
    return BaseException.with_traceback(exc, None) if _travels(exc) else _in_words(exc)


def sendable(exc: BaseException) -> object:
    """A picklable form of ``exc``: itself, one without a call of its class, or its text."""
    if _travels(exc):
        return BaseException.with_traceback(exc, None)
    try:
        rebuilt = _Rebuilt(exc)
    except Stopped:
        raise
    except BaseException:  # noqa: BLE001 - whatever its own code raises
        return _in_words(exc)
    return rebuilt if _travels(rebuilt) else _in_words(exc)


def _in_words(exc: BaseException) -> RuntimeError:
    return RuntimeError(words_of(exc))


def repr_of(value: object) -> str:
    """The `repr`, or the error that it raised."""
    try:
        return repr(value)
    except Stopped:
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever its own code raises
        return f"something whose repr raises {name_of(exc)}"


def frames_of(exc: BaseException) -> TracebackType | None:
    """An error's ``__traceback__``, without running its code."""
    found: TracebackType | None = vars(BaseException)["__traceback__"].__get__(exc)
    return found


def traceback_of(exc: BaseException) -> str:
    """An error as Python prints it, as far as its own code allows."""
    try:
        return "".join(traceback.format_exception(exc))
    except Stopped:
        raise
    except BaseException:  # noqa: BLE001 - whatever its own code raises
        frames = traceback.format_tb(frames_of(exc))
        return "".join(["Traceback (most recent call last):\n", *frames, words_of(exc), "\n"])


class _Rebuilt:
    """Pickles an exception without a call of its ``__init__``, which may need other arguments."""

    def __init__(self, exc: BaseException) -> None:
        state = {name: value for name, value in _state(exc).items() if _travels(value)}
        args = exc.args
        if isinstance(exc, BaseExceptionGroup):
            args = exc.message, [sendable(one) for one in exc.exceptions]
        args = tuple(arg if _travels(arg) else repr_of(arg) for arg in args)
        self._parts = type(exc), args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._parts


def _state(exc: BaseException) -> dict[str, Any]:
    """Its attributes, also those of compiled classes (``errno``, ``name``)."""
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
    except TypeError:  # its own wants others
        base = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        exc = base.__new__(kind, *args)
    for name, value in {"args": args, **state}.items():
        with suppress(AttributeError, TypeError):  # read-only
            BaseException.__setattr__(exc, name, value)
    return exc


def _travels(value: object) -> bool:
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
    """Sent instead of a result: the slot ends, and the call must run elsewhere."""


class RemoteTraceback(Exception):
    """The traceback of an error where it was raised; the cause of the error of a task's future."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"
