"""Undoing what code did to the process that it ran in."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own functions wrap this in enums, slowly
import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_CLONE_FS = 0x00000200
_SIGNALS = tuple(
    getattr(signal, f"SIG{name}") for name in ("ALRM", "CHLD", "HUP", "PIPE", "USR1", "USR2")
)
_SLOTS_OWN = signal.SIGINT, signal.SIGTERM
"""By which slots are ended, so that nothing may change what is done on these."""
_MODULE = "resource"


class leave:  # noqa: N801 - it reads as what it does: with leave():
    """Undo nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def keep(self, besides: Iterable[str] = ()) -> None:
        """What was done by now is not to be undone, but to these environment variables."""


class put_back(leave):  # noqa: N801 - as `leave`
    """Let what runs next find this process as it was when this object was made.

    Its current folder (which becomes ``folder``), environment, ``sys.path``, umask, standard
    streams, recursion limit, what it does on signals, and soft limits of its resources; its alarm
    is off. May be entered again and again. Only for the main thread.
    """

    def __init__(self, folder: str = "/") -> None:
        self._folder = folder
        self._own_handlers = _handlers(_SLOTS_OWN)
        self._note()

    def _note(self) -> None:
        self._environment = _environment().copy()
        self._path = sys.path[:]
        self._mask = _umask()
        self._depth = sys.getrecursionlimit()
        self._handlers = [*self._own_handlers, *_handlers(_SIGNALS)]
        self._limits = _limits()
        self._streams = sys.stdin, sys.stdout, sys.stderr

    def __exit__(self, *exc: object) -> None:
        self._go_back()
        os.umask(self._mask)
        _signal.alarm(0)
        if sys.getrecursionlimit() != self._depth:
            sys.setrecursionlimit(self._depth)
        if sys.path != self._path:
            sys.path[:] = self._path
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if self._environment != _environment():
            os.environ.clear()
            for name, value in self._environment.items():
                os.environb[name] = value
        for number, handler in self._handlers:
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        if _MODULE in sys.modules:  # nobody can have set any without
            _put_limits_back(self._limits)

    def keep(self, besides: Iterable[str] = ()) -> None:
        """See `leave.keep`."""
        before = self._environment
        self._note()
        for name in map(os.fsencode, besides):
            self._environment.pop(name, None)
            if name in before:
                self._environment[name] = before[name]
        self._folder = _current_folder(self._folder)

    def _go_back(self) -> None:
        os.chdir(self._folder)


class put_folder_back(leave):  # noqa: N801 - as `leave`
    """Go to a folder, and back there after each call."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._go_back()

    def __exit__(self, *exc: object) -> None:
        self._go_back()

    def keep(self, besides: Iterable[str] = ()) -> None:
        """See `leave.keep`."""
        self._folder = _current_folder(self._folder)

    def _go_back(self) -> None:
        with suppress(OSError):
            os.chdir(self._folder)


def _current_folder(otherwise: str) -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return otherwise


def own_folder() -> bool:
    """Give this thread a current folder of its own (unshare(2), CLONE_FS); whether it has one."""
    return bool(ctypes.CDLL(None).unshare(_CLONE_FS) == 0)


def _handlers(numbers: Iterable[signal.Signals]) -> list[tuple[int, Any]]:
    """What is done on signals, as far as Python knows it."""
    found = [(number, _signal.getsignal(number)) for number in numbers]
    return [known for known in found if known[1] is not None]


def _environment() -> dict[bytes, bytes]:
    """The environment as it is kept: ``os.environ`` itself decodes each entry anew."""
    kept: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return kept


def _limits() -> list[tuple[int, int]]:
    imported = _MODULE in sys.modules
    import resource

    if not imported:  # so that it tells whether somebody else has
        del sys.modules[_MODULE]
    numbers = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    return [(number, resource.getrlimit(number)[0]) for number in numbers]


def _put_limits_back(limits: list[tuple[int, int]]) -> None:
    import resource

    for number, soft in limits:
        now, hard = resource.getrlimit(number)
        infinite = resource.RLIM_INFINITY
        if hard != infinite and (soft == infinite or soft > hard):  # that was lowered, too
            soft = hard
        if now != soft:
            with suppress(ValueError, OSError):
                resource.setrlimit(number, (soft, hard))


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
