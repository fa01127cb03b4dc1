"""Calling a user's function as a task, including one that forks, and coroutine functions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import CoroutineType
from typing import Any, NoReturn

from encamp.wire.pickling import traceback_of


def called(
    function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """The value of ``function(*args, **kwargs)``; a coroutine is run to its end.

    If the function forks and returns in both processes, the child process ends here.
    """
    pid = os.getpid()  # not the number of forks: compiled code may fork without telling Python
    try:
        value = function(*args, **kwargs or {})
        if type(value) is CoroutineType:
            value = _awaited(value)
    except BaseException as exc:
        if os.getpid() != pid:
            _end(exc)
        raise
    if os.getpid() != pid:
        _end(None)
    return value


class _Forks:
    """The number of forks between this process and the one that has imported this module."""

    count = 0

    @classmethod
    def forked(cls) -> None:
        cls.count += 1


os.register_at_fork(after_in_child=_Forks.forked)


def called_for_each(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]
) -> list[Any]:
    """`called` for each of several arguments, within a task; errors are raised to the caller.

    Faster than single calls, for very short functions.
    """
    values, forks = [], _Forks.count
    for args in arguments:
        value = function(*args)
        if _Forks.count != forks:
            _end(None)
        values.append(_awaited(value) if type(value) is CoroutineType else value)
    return values


def _awaited(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _end(exc: BaseException | None) -> NoReturn:
    """End this process as a program ends, without an exception or with ``exc``."""
    status = 0
    if type(exc) is SystemExit and (exc.code is None or isinstance(exc.code, int)):
        status = (exc.code or 0) & 0xFF
    elif exc is not None:
        status = 1
        _complain(f"{exc.code}\n" if type(exc) is SystemExit else traceback_of(exc))
    with suppress(BaseException):
        sys.stdout.flush()
    with suppress(BaseException):
        sys.stderr.flush()
    os._exit(status)


def _complain(text: str) -> None:
    with suppress(BaseException):
        sys.stderr.write(text)
