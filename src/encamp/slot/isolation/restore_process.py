"""Undoing the changes that a call has made to its process.

Looking at everything that may have changed takes some microseconds; only what differs is restored.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own functions wrap this in enums, slowly
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from encamp.slot.isolation.restored_properties import forget_warnings, properties, restored

_CLONE_FS = 0x00000200
_SLOTS_OWN = int(signal.SIGINT), int(signal.SIGTERM)
_TIMERS = tuple(map(int, (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)))
_MODULE = "resource"
_ENVIRONMENT = os.environ
"""A call may replace `os.environ` by another object."""


class NotIsolated:
    """Undo nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def keep(self, except_for: Iterable[str] = ()) -> None:
        """Never undo the changes so far, except for those to the named environment variables."""


class ProcessRestored(NotIsolated):
    """At the end of the context, restore this process to its state when the object was made.

    This includes the environment, ``sys.path``, timers, limits and the `restored_properties`. The
    current folder becomes ``folder``. May be entered repeatedly. Only for the main thread.
    """

    def __init__(self, folder: str = "/") -> None:
        self._folder = folder
        # Slots are ended by these signals, so not even an initializer may replace their handlers.
        self._own_handlers: dict[int, Any] = {
            number: _signal.getsignal(number) for number in _SLOTS_OWN
        }
        self._note()

    def _note(self) -> None:
        self._environment = _environment().copy()
        self._folders, self._path = sys.path, sys.path[:]
        self._recursion = sys.getrecursionlimit()
        self._properties = properties(self._own_handlers)
        self._limits = _limits()

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def undo(self) -> bool:
        """Restore what has changed; False if something cannot be restored."""
        for timer in _TIMERS:  # first, so that none goes off in the meantime
            _signal.setitimer(timer, 0)
        sys.setrecursionlimit(self._recursion)  # the following needs some depth itself
        faulthandler.cancel_dump_traceback_later()
        for number in _SLOTS_OWN:
            faulthandler.unregister(number)
        forget_warnings()
        self._go_back()
        os.environ = _ENVIRONMENT  # noqa: B003 - it is the original object
        if self._environment != _environment():
            os.environ.clear()
            for name, value in self._environment.items():
                os.environb[name] = value
        if self._folders != self._path:
            self._folders[:] = self._path
        sys.path = self._folders  # the same object, as modules may have imported it by name
        good = restored(self._properties)
        if _MODULE in sys.modules:  # otherwise no limit can have been changed
            good = _put_limits_back(self._limits) and good
        return good

    def keep(self, except_for: Iterable[str] = ()) -> None:
        """See `NotIsolated.keep`."""
        before = self._environment
        self._note()
        for name in map(os.fsencode, except_for):
            self._environment.pop(name, None)
            if name in before:
                self._environment[name] = before[name]
        self._folder = _current_folder(self._folder)

    def _go_back(self) -> None:
        os.chdir(self._folder)


class FolderRestored(NotIsolated):
    """Make ``folder`` the current folder, now and at the end of each context."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._go_back()

    def __exit__(self, *exc: object) -> None:
        self._go_back()

    def keep(self, except_for: Iterable[str] = ()) -> None:
        """See `NotIsolated.keep`."""
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
    """Give this thread a current folder of its own (unshare(2), CLONE_FS); False if refused."""
    return bool(ctypes.CDLL(None).unshare(_CLONE_FS) == 0)


def _environment() -> dict[bytes, bytes]:
    """The environment in bytes. (Reading ``os.environ`` would decode all entries.)"""
    kept: dict[bytes, bytes] = _ENVIRONMENT._data  # type: ignore[attr-defined]
    return kept


def resource_unseen() -> ModuleType:
    """The module `resource`; it is in `sys.modules` afterwards only if it was before.

    If it is there, a task may have changed limits, and reading all limits is slow.
    """
    imported = _MODULE in sys.modules
    import resource

    if not imported:
        del sys.modules[_MODULE]
    return resource


def _limits() -> dict[int, tuple[int, int]]:
    resource = resource_unseen()
    numbers = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {number: resource.getrlimit(number) for number in numbers}


def _put_limits_back(limits: dict[int, tuple[int, int]]) -> bool:
    import resource

    now = list(map(resource.getrlimit, limits))
    if now == list(limits.values()):
        return True
    good = True
    for (number, limit), is_ in zip(limits.items(), now, strict=True):
        if is_ != limit:
            try:
                resource.setrlimit(number, limit)
            except (ValueError, OSError):  # a hard limit that was lowered
                good = False
    return good
