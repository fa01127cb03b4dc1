"""libpvm3 as Python functions: the calls that the engine uses, with types.

Functions are named like the C ones without ``pvm_``; the header ``pvm3.h`` and section 3PVM of the
manual describe them. An error code becomes a `PVMError`. A process has one membership in one
virtual machine, and one thread at a time may use it.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p
from dataclasses import dataclass

NAME = "libpvm3.so.3"

TASK_HOST = 1
"""Flag of `spawn`: ``where`` names a host, with a folder after a colon."""
TASK_EXIT, HOST_ADD = 1, 3
"""The events of `notify`."""
ROUTE, AUTO_ERR, OUTPUT_TID, OUTPUT_CODE = 1, 3, 4, 5
"""The options of `setopt`."""
DONT_ROUTE, ROUTE_DIRECT = 1, 3
"""The values of ``ROUTE``: all messages through the daemons, or over sockets between tasks."""
DATA_RAW = 1
ANY = -1

NO_HOST, SYS_ERR, HOST_FAIL, LOOPBACK = -6, -14, -22, -36
_ERRORS = {
    -2: "bad parameter",
    -3: "parameters do not match",
    -4: "value too large",
    -5: "the message has no more data",
    NO_HOST: "no such host",
    -7: "no such file",
    -8: "permission denied",
    -10: "no memory",
    -12: "the message cannot be decoded",
    SYS_ERR: "the PVM daemon of this host cannot be reached",
    -15: "no current buffer",
    -16: "no such buffer",
    HOST_FAIL: "the host failed",
    -23: "no parent task",
    -24: "not implemented",
    -25: "the PVM daemon has a system error",
    -26: "the PVM versions do not match",
    -27: "out of resources",
    -28: "the host is in the virtual machine already",
    -29: "the PVM daemon cannot be started there",
    -30: "already in progress",
    -31: "no such task",
    -32: "not found",
    -33: "exists already",
    LOOPBACK: "this host's name resolves to its loopback address, which others cannot reach",
}

try:
    _library = ctypes.CDLL(NAME)
except OSError as exc:
    raise ImportError(str(exc)) from exc


class PVMError(Exception):
    """A function of libpvm failed with a negative ``code``."""

    def __init__(self, code: int) -> None:
        super().__init__(code_text(code))
        self.code = code


def code_text(code: int) -> str:
    """The meaning of an error code."""
    return _ERRORS.get(code, f"PVM's error {code}")


class _HostInfo(ctypes.Structure):
    _fields_ = [
        ("tid", c_int),
        ("name", c_char_p),
        ("arch", c_char_p),
        ("speed", c_int),
        ("dsig", c_int),
    ]


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A host of the virtual machine; ``tid`` is its daemon's."""

    tid: int
    name: str
    arch: str
    speed: int


_INTS = POINTER(c_int)
_SIGNATURES = {
    "mytid": (),
    "parent": (),
    "exit": (),
    "sendsig": (c_int, c_int),
    "setopt": (c_int, c_int),
    "spawn": (c_char_p, POINTER(c_char_p), c_int, c_char_p, c_int, _INTS),
    "notify": (c_int, c_int, c_int, _INTS),
    "addhosts": (POINTER(c_char_p), c_int, _INTS),
    "delhosts": (POINTER(c_char_p), c_int, _INTS),
    "config": (_INTS, _INTS, POINTER(POINTER(_HostInfo))),
    "tidtohost": (c_int,),
    "tickle": (c_int, _INTS, _INTS, _INTS),
    "recv": (c_int, c_int),
    "send": (c_int, c_int),
    "initsend": (c_int,),
    "pkbyte": (c_void_p, c_int, c_int),
    "upkbyte": (c_void_p, c_int, c_int),
    "upkint": (_INTS, c_int, c_int),
    "nrecv": (c_int, c_int),
    "bufinfo": (c_int, _INTS, _INTS, _INTS),
    "getfds": (POINTER(_INTS),),
}
for _name, _types in _SIGNATURES.items():
    _function = getattr(_library, f"pvm_{_name}")
    _function.argtypes = _types
    _function.restype = c_int


def _checked(code: int) -> int:
    if code < 0:
        raise PVMError(code)
    return code


# Membership


def mytid() -> int:
    """This task's id; joins the virtual machine that the environment names, the first time."""
    return _checked(_library.pvm_mytid())


def parent() -> int | None:
    """The id of the task that spawned this one."""
    code: int = _library.pvm_parent()
    return code if code > 0 else None


def leave() -> None:
    """``pvm_exit``: leave the machine; the process continues, and may join again."""
    _checked(_library.pvm_exit())


def setopt(what: int, value: int) -> int:
    """Set an option; returns its old value."""
    return _checked(_library.pvm_setopt(what, value))


def getfds() -> list[int]:
    """File descriptors of the daemon, and of direct routes."""
    fds = _INTS()
    return fds[: _checked(_library.pvm_getfds(byref(fds)))]


# The machine


def config() -> list[HostInfo]:
    """The hosts of the virtual machine."""
    count, archs, found = c_int(), c_int(), POINTER(_HostInfo)()
    _checked(_library.pvm_config(byref(count), byref(archs), byref(found)))
    hosts = [found[number] for number in range(count.value)]
    return [HostInfo(h.tid, h.name.decode(), h.arch.decode(), h.speed) for h in hosts]


def addhosts(names: Sequence[str]) -> list[int]:
    """Add hosts; returns the daemon's id or an error code for each."""
    infos = (c_int * len(names))()
    _checked(_library.pvm_addhosts(_strings(names), len(names), infos))
    return list(infos)


def delhosts(names: Sequence[str]) -> list[int]:
    """Remove hosts; returns 0 or an error code for each."""
    infos = (c_int * len(names))()
    _checked(_library.pvm_delhosts(_strings(names), len(names), infos))
    return list(infos)


def fail_host(tid: int) -> bool:
    """Tell this host's daemon that another one, ``tid``, is dead; returns whether it knew that one.

    This is ``pvm_tickle`` with 8, which no page of the manual describes.
    """
    count, answer = c_int(), (c_int * 10)()
    _checked(_library.pvm_tickle(2, (c_int * 2)(8, tid), byref(count), answer))
    return bool(answer[0])


def tidtohost(tid: int) -> int:
    """The id of a task's daemon."""
    return _checked(_library.pvm_tidtohost(tid))


# Tasks


def spawn(task: str, arguments: Sequence[str], flag: int, where: str, count: int = 1) -> list[int]:
    """Start tasks; returns the id or an error code for each."""
    tids = (c_int * count)()
    strings = _strings([*arguments, None])
    code = _library.pvm_spawn(task.encode(), strings, flag, where.encode(), count, tids)
    if code == SYS_ERR:
        raise PVMError(code)
    return list(tids) if code >= 0 else [code] * count


def kill(tid: int) -> None:
    """End a task by SIGKILL."""
    _checked(_library.pvm_sendsig(tid, signal.SIGKILL))


def notify(what: int, tag: int, tids: Sequence[int] | None = None, count: int = -1) -> None:
    """Ask for messages with ``tag`` about the ends of tasks or hosts, or ``count`` new hosts."""
    if tids is None:
        _checked(_library.pvm_notify(what, tag, count, None))
    else:
        _checked(_library.pvm_notify(what, tag, len(tids), (c_int * len(tids))(*tids)))


def _strings(texts: Sequence[str | None]) -> ctypes.Array[c_char_p]:
    return (c_char_p * len(texts))(*(None if text is None else text.encode() for text in texts))


# Messages


def send(tid: int, tag: int, data: bytes) -> None:
    """Send one message of raw bytes; ``data`` may be used again when this returns."""
    _checked(_library.pvm_initsend(DATA_RAW))
    _checked(_library.pvm_pkbyte(data, len(data), 1))
    _checked(_library.pvm_send(tid, tag))


def nrecv(tid: int = ANY, tag: int = ANY) -> int:
    """The buffer of a message that has arrived, 0 if none has; its data are unpacked next."""
    return _checked(_library.pvm_nrecv(tid, tag))


def recv(tid: int = ANY, tag: int = ANY) -> int:
    """The buffer of the next message; blocks until it arrives."""
    return _checked(_library.pvm_recv(tid, tag))


def bufinfo(buffer: int) -> tuple[int, int, int]:
    """A message's size in bytes, its tag and its sender."""
    size, tag, source = c_int(), c_int(), c_int()
    _checked(_library.pvm_bufinfo(buffer, byref(size), byref(tag), byref(source)))
    return size.value, tag.value, source.value


def unpack(size: int) -> bytes:
    """The next ``size`` bytes of the message."""
    data = ctypes.create_string_buffer(size)
    if size:
        _checked(_library.pvm_upkbyte(data, size, 1))
    return data.raw


def unpack_ints(count: int) -> list[int]:
    """The next integers of the message, as in notifications."""
    values = (c_int * count)()
    _checked(_library.pvm_upkint(values, count, 1))
    return list(values)
