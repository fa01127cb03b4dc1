"""The properties of its process that a call may change: how to look at each, how to restore it.

The environment, ``sys.path``, timers and resource limits are not among them, see `restore_process`.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # signal's own functions wrap this in enums, slowly
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

SIGNALS = tuple(sorted(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})))
_BLOCK = int(signal.SIG_BLOCK)
_HERE = os.PRIO_PROCESS, 0
_ALL = 6
"""LC_ALL, as a number since `locale` is slow to import."""

_CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version; this thread
_SETS = (ctypes.c_uint32 * 6)()
_libc = ctypes.PyDLL(None)
_get_sets = partial(_libc.capget, _CAPABILITIES, _SETS)
_sets = memoryview(_SETS).cast("B")
_no_new_privileges = partial(_libc.prctl, 39, 0, 0, 0, 0)


def _privileges() -> Any:
    """The capabilities, see capget(2), and whether it has given up others (no_new_privs)."""
    _get_sets()
    return _sets.tobytes(), _no_new_privileges()


def _check_privileges(before: Any) -> None:
    """They come back with the effective user, if at all."""
    if _privileges() != before:
        raise PermissionError("privileges that were given up cannot be regained")


def _root() -> Any:
    root = os.stat("/")  # noqa: PTH116 - faster than `Path.stat`
    return root.st_dev, root.st_ino


_ROOT = _root()


_folder_by_root = os.getcwd
"""The path of the current folder, which begins at the root. (To look at the root takes longer.)"""


def _check_root(_: Any) -> None:
    if _root() != _ROOT:
        raise OSError("a chroot(2) cannot be undone")


_NO_PRIORITY = os.sched_param(0)


def _policy() -> Any:
    """The scheduling policy and its priority, which only the real-time policies have."""
    policy = os.sched_getscheduler(0)
    has_priority = policy in (os.SCHED_FIFO, os.SCHED_RR)
    return policy, os.sched_getparam(0) if has_priority else _NO_PRIORITY


_mask = partial(_signal.pthread_sigmask, _BLOCK, ())


def _put_mask(mask: Any) -> None:
    """Restore the signal mask. Pending signals are dropped, since they were for the call."""
    for number in _signal.sigpending():
        with suppress(OSError, ValueError):
            _signal.signal(number, _signal.signal(number, _signal.SIG_IGN) or _signal.SIG_DFL)
    _signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _handlers() -> list[Any]:
    return [*map(_signal.getsignal, SIGNALS)]


def _put_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) is not handler:
            _signal.signal(number, handler)


_zone = partial(itemgetter("tzname", "timezone", "altzone"), vars(time))


def _put_zone(_: Any) -> None:
    time.tzset()  # reads the environment, which is restored by now


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _locale_name() -> str | None:
    """The whole locale, looked up only if something can have changed it."""
    return _locale.setlocale(_ALL, None) if "locale" in sys.modules else _LOCALE


_LOCALE = _locale.setlocale(_ALL, None)


def _put_traceback_limit(limit: Any) -> None:
    if limit is not None:
        sys.tracebacklimit = limit
    elif hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit


forget_warnings: Callable[[], object] = getattr(warnings, "_filters_mutated", int)
"""Makes warnings appear in the output of the next call, too, if they were shown before."""


def _put_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # also forgets which warnings were shown
    warnings.filters.extend(filters)  # type: ignore[attr-defined]


_IN_SYS = "stdin", "stdout", "stderr", "excepthook", "displayhook", "unraisablehook", "argv"
_sys_attributes = partial(itemgetter(*_IN_SYS), vars(sys))


def _put_sys_attributes(values: Any) -> None:
    vars(sys).update(zip(_IN_SYS, _kept(values), strict=True))


_STREAM = attrgetter("closed", "encoding", "errors", "line_buffering", "write_through")
_streams_own = [one for one in (sys.__stdin__, sys.__stdout__, sys.__stderr__) if one is not None]


def _put_stream(stream: Any, state: Any) -> None:
    """Restore how a stream encodes and buffers; raises if it is closed."""
    _, encoding, errors, lines, through = state
    stream.reconfigure(
        encoding=encoding, errors=errors, line_buffering=lines, write_through=through
    )


def _input() -> Any:
    found = os.fstat(0)
    return found.st_dev, found.st_ino


def _cannot_unread(_: Any) -> None:
    raise ValueError("sys.stdin may have read ahead from a different file")


set_up_loggers: list[Any] = []
"""Loggers with settings of the program (`program_settings`), restored like the root logger."""

_LOGGER = attrgetter("handlers", "level", "propagate", "disabled")


def _loggers() -> Any:
    return [*map(_LOGGER, set_up_loggers)]


def _put_loggers(states: Any) -> None:
    for logger, state in zip(set_up_loggers, states, strict=True):
        _put_logger(logger, state)


def _put_logger(logger: Any, state: Any) -> None:
    logger.handlers[:], level, logger.propagate, logger.disabled = state
    logger.setLevel(level)


def _put_dumps(enabled: bool) -> None:
    (faulthandler.enable if enabled else faulthandler.disable)()


_ASPECTS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (os.getresuid, lambda ids: os.setresuid(*ids)),  # first, as only root may change groups
    (os.getgroups, os.setgroups),
    (os.getresgid, lambda ids: os.setresgid(*ids)),
    (_privileges, _check_privileges),
    (_folder_by_root, _check_root),
    (_mask, _put_mask),
    (_handlers, _put_handlers),
    (_zone, _put_zone),
    (_umask, os.umask),
    (partial(os.getpriority, *_HERE), partial(os.setpriority, *_HERE)),
    (_policy, lambda policy: os.sched_setscheduler(0, *policy)),
    (partial(os.sched_getaffinity, 0), partial(os.sched_setaffinity, 0)),
    (_locale_name, partial(_locale.setlocale, _ALL)),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (sys.getdlopenflags, sys.setdlopenflags),
    (threading.stack_size, threading.stack_size),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (_sys_attributes, _put_sys_attributes),
    *((partial(_STREAM, one), partial(_put_stream, one)) for one in _streams_own),
    (_input, _cannot_unread),
    (partial(vars(sys).get, "tracebacklimit"), _put_traceback_limit),
    (partial(getattr, warnings, "filters"), _put_filters),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (partial(getattr, threading, "excepthook"), partial(setattr, threading, "excepthook")),
    (threading.gettrace, threading.settrace),
    (threading.getprofile, threading.setprofile),
    (gc.isenabled, lambda enabled: (gc.enable if enabled else gc.disable)()),
    (gc.get_threshold, lambda threshold: gc.set_threshold(*threshold)),
    (gc.get_debug, gc.set_debug),
    (partial(getattr, logging.root.manager, "disable"), logging.disable),
    (partial(_LOGGER, logging.root), partial(_put_logger, logging.root)),
    (_loggers, _put_loggers),
    (faulthandler.is_enabled, _put_dumps),
]
"""For each property of the process that a call may change: how to read it, how to restore it.

They are restored in this order.
"""
_LOOKS = [look for look, _ in _ASPECTS]
_AT_HANDLERS = _LOOKS.index(_handlers)
_UNREADABLE = object()
"""In place of a property that cannot be read, as a call has deleted or broken it."""


def properties(handlers: Mapping[int, Any]) -> list[Any]:
    """All properties as they are now, with some signals' ``handlers`` as given."""
    found = list(map(_kept, map(_read, _LOOKS)))
    for number, handler in handlers.items():
        found[_AT_HANDLERS][SIGNALS.index(number)] = handler
    return found


def restored(before: list[Any]) -> bool:
    """Restore the properties that have changed; False if one cannot be restored."""
    try:
        now = [look() for look in _LOOKS]
    except Exception:  # noqa: BLE001 - each function has its own errors
        now = [*map(_read, _LOOKS)]
    return now == before or _put_back(now, before)


def _kept(value: Any) -> Any:
    """A copy of lists, also in tuples, which a call may change in place."""
    return type(value)(map(_kept, value)) if type(value) in (list, tuple) else value


def _read(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except Exception:  # noqa: BLE001 - see above
        return _UNREADABLE


def _put_back(now: list[Any], before: list[Any]) -> bool:
    good = True
    for (_, put), is_, was in zip(_ASPECTS, now, before, strict=True):
        if is_ != was:
            try:
                put(was)
            except Exception:  # noqa: BLE001 - see above
                good = False
    return good
