"""Undoing the changes that a call has made to its process.

The table `_ASPECTS` lists what can change: how to look at each property, and how to restore it.
Looking at all of them takes some microseconds; only properties that differ are restored.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # signal's own functions wrap this in enums, slowly
import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_CLONE_FS = 0x00000200
_SIGNALS = tuple(
    number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP)
)
_SLOTS_OWN = signal.SIGINT, signal.SIGTERM
_TIMERS = tuple(map(int, (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)))
_BLOCK = int(signal.SIG_BLOCK)
_ALL = 6
"""LC_ALL, as a number since `locale` is slow to import."""
_MODULE = "resource"
_LOGGING = "logging"


class NotIsolated:
    """Undo nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def keep(self, besides: Iterable[str] = ()) -> None:
        """Never undo the changes made so far, except to the environment variables ``besides``."""


class ProcessRestored(NotIsolated):
    """At the end of the context, restore this process to its state when the object was made.

    This includes the environment, ``sys.path``, timers and all of `_ASPECTS`. The current folder
    becomes ``folder``. May be entered repeatedly. Only for the main thread.
    """

    def __init__(self, folder: str = "/") -> None:
        self._folder = folder
        # Slots are ended by these signals, so not even an initializer may replace their handlers.
        self._own_handlers = [(number, _signal.getsignal(number)) for number in _SLOTS_OWN]
        self._note()

    def _note(self) -> None:
        self._environment = _environment().copy()
        self._path = sys.path[:]
        self._aspects = [look() for look, _ in _ASPECTS]
        self._limits = _limits()
        handlers = self._aspects[_AT_HANDLERS]
        for number, handler in self._own_handlers:
            handlers[_SIGNALS.index(number)] = handler

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def undo(self) -> bool:
        """Restore what has changed; False if something cannot be restored."""
        good = True
        for timer in _TIMERS:  # first, so that none goes off meanwhile
            _signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        _forget_warnings()
        self._go_back()
        if self._environment != _environment():
            os.environ.clear()
            for name, value in self._environment.items():
                os.environb[name] = value
        if sys.path != self._path:
            sys.path[:] = self._path
        now = [look() for look, _ in _ASPECTS]
        if now != self._aspects:
            good = _put_back(now, self._aspects)
        if _MODULE in sys.modules:  # otherwise no limit can have been changed
            good = _put_limits_back(self._limits) and good
        return good

    def keep(self, besides: Iterable[str] = ()) -> None:
        """See `NotIsolated.keep`."""
        before = self._environment
        self._note()
        for name in map(os.fsencode, besides):
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

    def keep(self, besides: Iterable[str] = ()) -> None:
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


# What else is put back


def _users() -> Any:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _put_users(users: Any) -> None:
    """Restore user and groups; the user first, who may be allowed to change the groups."""
    os.setresuid(*users[0])
    if os.getgroups() != users[2]:
        os.setgroups(users[2])
    os.setresgid(*users[1])


def _root() -> Any:
    root = os.stat("/")  # noqa: PTH116 - faster than `Path.stat`
    return root.st_dev, root.st_ino


def _cannot_leave(_: Any) -> None:
    raise OSError("a chroot(2) cannot be undone")


def _policy() -> Any:
    return os.sched_getscheduler(0), os.sched_getparam(0)


def _mask() -> Any:
    return _signal.pthread_sigmask(_BLOCK, ())


def _put_mask(mask: Any) -> None:
    """Restore the signal mask. Pending signals are dropped, since they were for the call."""
    for number in _signal.sigpending():
        with suppress(OSError, ValueError):
            _signal.signal(number, _signal.signal(number, _signal.SIG_IGN) or _signal.SIG_DFL)
    _signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _handlers() -> list[Any]:
    return list(map(_signal.getsignal, _SIGNALS))


def _put_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) is not handler:
            _signal.signal(number, handler)


def _zone() -> Any:
    return time.tzname, time.timezone, time.altzone


def _put_zone(_: Any) -> None:
    time.tzset()  # by the environment, which has been restored by now


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _locale_name() -> str | None:
    """The whole locale, looked up only if something can have changed it."""
    return _locale.setlocale(_ALL, None) if "locale" in sys.modules else _LOCALE


_LOCALE = _locale.setlocale(_ALL, None)


def _filters() -> Any:
    return warnings.filters[:]


_forget_warnings: Callable[[], object] = getattr(warnings, "_filters_mutated", int)
"""Makes warnings appear in the output of the next call, too, if they were shown before."""


def _put_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # also forgets which warnings were shown
    warnings.filters.extend(filters)  # type: ignore[attr-defined]


def _streams() -> Any:
    return sys.stdin, sys.stdout, sys.stderr


def _put_streams(streams: Any) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _closed() -> Any:
    own = sys.__stdin__, sys.__stdout__, sys.__stderr__
    return [stream.closed for stream in own if stream is not None]


def _cannot_open(_: Any) -> None:
    raise ValueError("a closed stream cannot be opened again")


def _hooks() -> Any:
    return sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook


def _put_hooks(hooks: Any) -> None:
    sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook = hooks


def _tracing() -> Any:
    return sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()


def _put_tracing(functions: Any) -> None:
    sys.settrace(functions[0])
    sys.setprofile(functions[1])
    threading.settrace(functions[2])
    threading.setprofile(functions[3])


def _collecting() -> Any:
    return gc.isenabled(), gc.get_threshold()


def _put_collecting(state: Any) -> None:
    (gc.enable if state[0] else gc.disable)()
    gc.set_threshold(*state[1])


set_up_loggers: list[Any] = []
"""Loggers with settings of the program (`program_settings`), restored like the root logger."""


def _logging() -> Any:
    """The state of loggers; the default state if `logging` is not imported."""
    logging = sys.modules.get(_LOGGING)
    if logging is None:
        return 0, [([], 30, True, False)]
    root = logging.root
    return root.manager.disable, [
        (one.handlers[:], one.level, one.propagate, one.disabled) for one in (root, *set_up_loggers)
    ]


def _put_logging(state: Any) -> None:
    root = sys.modules[_LOGGING].root
    root.manager.disable, states = state
    for logger, (handlers, level, propagate, disabled) in zip(
        (root, *set_up_loggers), states, strict=True
    ):
        logger.handlers[:] = handlers
        logger.propagate, logger.disabled = propagate, disabled
        logger.setLevel(level)


def _put_dumps(enabled: bool) -> None:
    (faulthandler.enable if enabled else faulthandler.disable)()


_ASPECTS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (_users, _put_users),
    (_root, _cannot_leave),
    (_mask, _put_mask),
    (_handlers, _put_handlers),
    (_zone, _put_zone),
    (_umask, os.umask),
    (lambda: os.nice(0), lambda nice: os.nice(nice - os.nice(0))),
    (_policy, lambda policy: os.sched_setscheduler(0, *policy)),
    (lambda: os.sched_getaffinity(0), lambda cores: os.sched_setaffinity(0, cores)),
    (_locale_name, lambda name: _locale.setlocale(_ALL, name)),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (_streams, _put_streams),
    (_closed, _cannot_open),
    (_filters, _put_filters),
    (_hooks, _put_hooks),
    (_tracing, _put_tracing),
    (_collecting, _put_collecting),
    (_logging, _put_logging),
    (faulthandler.is_enabled, _put_dumps),
]
"""For each property of the process that a call may change: how to read it, how to restore it.

They are restored in this order.
"""


_AT_HANDLERS = [look for look, _ in _ASPECTS].index(_handlers)


def _put_back(now: list[Any], before: list[Any]) -> bool:
    good = True
    for (_, put), is_, was in zip(_ASPECTS, now, before, strict=True):
        if is_ != was:
            try:
                put(was)
            except Exception:  # noqa: BLE001 - each function has its own errors
                good = False
    return good


def _environment() -> dict[bytes, bytes]:
    """The environment in bytes. (Reading ``os.environ`` would decode all entries.)"""
    kept: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return kept


def resource_unseen() -> ModuleType:
    """The module `resource`; it is in `sys.modules` afterwards only if it was before.

    There it tells that a task may have changed limits, which takes long to look up.
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
