"""The properties of its process that a call may change: how to look at each, how to restore it.

The environment, ``sys.path``, timers and resource limits are not among them, see `isolation`.
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

SIGNALS = tuple(
    number
    for number in range(1, signal.NSIG)
    if number in signal.valid_signals() and number not in (signal.SIGKILL, signal.SIGSTOP)
)
_BLOCK = int(signal.SIG_BLOCK)
_HERE = os.PRIO_PROCESS, 0
_ALL = 6
"""LC_ALL, as a number since `locale` is slow to import."""
_LOGGING = "logging"


def _users() -> Any:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _put_users(users: Any) -> None:
    """Restore user and groups; the user first, who may be allowed to change the groups."""
    os.setresuid(*users[0])
    if os.getgroups() != users[2]:
        os.setgroups(users[2])
    os.setresgid(*users[1])


_CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version; this thread
_SETS = (ctypes.c_uint32 * 6)()
_libc = ctypes.PyDLL(None)
_GET_NO_NEW_PRIVS = [ctypes.c_ulong(number) for number in (39, 0, 0, 0, 0)]


def _privileges() -> Any:
    """The capabilities, see capget(2), and whether it has given up others (no_new_privs)."""
    _libc.capget(_CAPABILITIES, _SETS)
    return bytes(_SETS), _libc.prctl(*_GET_NO_NEW_PRIVS)


def _check_privileges(before: Any) -> None:
    """They come back with the effective user, if at all."""
    if _privileges() != before:
        raise PermissionError("privileges that were given up cannot be regained")


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
    return list(map(_signal.getsignal, SIGNALS))


def _put_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(SIGNALS, handlers, strict=True):
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


def _arguments() -> Any:
    return sys.argv[:], vars(sys).get("tracebacklimit")


def _put_arguments(state: Any) -> None:
    sys.argv, limit = state[0][:], state[1]
    if limit is not None:
        sys.tracebacklimit = limit
    elif hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit


def _filters() -> Any:
    return warnings.filters[:]


forget_warnings: Callable[[], object] = getattr(warnings, "_filters_mutated", int)
"""Makes warnings appear in the output of the next call, too, if they were shown before."""


def _put_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # also forgets which warnings were shown
    warnings.filters.extend(filters)  # type: ignore[attr-defined]


def _streams() -> Any:
    return sys.stdin, sys.stdout, sys.stderr


def _put_streams(streams: Any) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _streams_own() -> Any:
    """The state of the streams themselves, which a call may have closed or detached."""
    return [
        one and (one.closed, one.encoding, one.errors, one.line_buffering, one.write_through)
        for one in (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    ]


def _put_streams_own(states: Any) -> None:
    """Restore how the streams encode and buffer; raises if one is closed."""
    own = sys.__stdin__, sys.__stdout__, sys.__stderr__
    for one, state in zip(own, states, strict=True):
        if state and not state[0]:
            _, encoding, errors, lines, through = state
            one.reconfigure(  # type: ignore[union-attr]
                encoding=encoding, errors=errors, line_buffering=lines, write_through=through
            )


def _input() -> Any:
    found = os.fstat(0)
    return found.st_dev, found.st_ino


def _cannot_unread(_: Any) -> None:
    raise ValueError("sys.stdin may have read ahead from another file")


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
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _put_collecting(state: Any) -> None:
    (gc.enable if state[0] else gc.disable)()
    gc.set_threshold(*state[1])
    gc.set_debug(state[2])


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
    (_privileges, _check_privileges),
    (_root, _cannot_leave),
    (_mask, _put_mask),
    (_handlers, _put_handlers),
    (_zone, _put_zone),
    (_umask, os.umask),
    (lambda: os.getpriority(*_HERE), lambda nice: os.setpriority(*_HERE, nice)),
    (_policy, lambda policy: os.sched_setscheduler(0, *policy)),
    (lambda: os.sched_getaffinity(0), lambda cores: os.sched_setaffinity(0, cores)),
    (_locale_name, lambda name: _locale.setlocale(_ALL, name)),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (sys.getdlopenflags, sys.setdlopenflags),
    (threading.stack_size, threading.stack_size),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (_streams, _put_streams),
    (_streams_own, _put_streams_own),
    (_input, _cannot_unread),
    (_arguments, _put_arguments),
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
_UNREADABLE = object()
"""In place of a property that cannot be read, as a call has deleted or broken it."""


def properties(handlers: Mapping[int, Any] | None = None) -> list[Any]:
    """All properties as they are now, with some signals' ``handlers`` as given."""
    try:
        found = [look() for look, _ in _ASPECTS]
    except Exception:  # noqa: BLE001 - each function has its own errors
        found = [_read(look) for look, _ in _ASPECTS]
    for number, handler in (handlers or {}).items():
        found[_AT_HANDLERS][SIGNALS.index(number)] = handler
    return found


def _read(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except Exception:  # noqa: BLE001 - see above
        return _UNREADABLE


def put_back(now: list[Any], before: list[Any]) -> bool:
    """Restore the properties that differ; False if one cannot be restored."""
    good = True
    for (_, put), is_, was in zip(_ASPECTS, now, before, strict=True):
        if is_ != was:
            try:
                put(was)
            except Exception:  # noqa: BLE001 - see above
                good = False
    return good
