"""libpvm3 as Python functions: the calls that the engine uses, with types.

Functions are named like the C ones without ``pvm_``; the header ``pvm3.h`` and section 3PVM of the
manual describe them. An error code becomes a `PVMError`. A process has one membership in one
virtual machine, and one thread at a time may use it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass

NAME = "libpvm3.so.3"

TASK_HOST = 1
"""Flag of `spawn`: ``where`` names a host, with a folder after a colon."""
TASK_EXIT, HOST_ADD = 1, 3
"""The events of `notify`."""
ROUTE, AUTO_ERR, OUTPUT_TID, OUTPUT_CODE, FRAG_SIZE = 1, 3, 4, 5, 10
"""The options of `setopt`."""
ROUTE_DIRECT = 3
DATA_RAW, DATA_IN_PLACE = 1, 2
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
    _waits = ctypes.CDLL(NAME)
    _quick = ctypes.PyDLL(NAME)  # keeps the interpreter's lock: for calls that return at once
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


class _TaskInfo(ctypes.Structure):
    _fields_ = [
        ("tid", c_int),
        ("parent", c_int),
        ("host", c_int),
        ("flag", c_int),
        ("name", c_char_p),
        ("pid", c_int),
    ]


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A host of the virtual machine; ``tid`` is its daemon's."""

    tid: int
    name: str
    arch: str
    speed: int


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task; ``host`` is its daemon's id, ``parent`` is 0 if there is none."""

    tid: int
    parent: int
    host: int
    flag: int
    name: str
    pid: int


_INTS = POINTER(c_int)
_SIGNATURES = {
    "mytid": (),
    "parent": (),
    "exit": (),
    "halt": (),
    "kill": (c_int,),
    "setopt": (c_int, c_int),
    "getopt": (c_int,),
    "spawn": (c_char_p, POINTER(c_char_p), c_int, c_char_p, c_int, _INTS),
    "notify": (c_int, c_int, c_int, _INTS),
    "addhosts": (POINTER(c_char_p), c_int, _INTS),
    "delhosts": (POINTER(c_char_p), c_int, _INTS),
    "config": (_INTS, _INTS, POINTER(POINTER(_HostInfo))),
    "tasks": (c_int, _INTS, POINTER(POINTER(_TaskInfo))),
    "pstat": (c_int,),
    "mstat": (c_char_p,),
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
_QUICK = ("initsend", "pkbyte", "upkbyte", "upkint", "nrecv", "bufinfo", "getfds")
for _name, _types in _SIGNATURES.items():
    _function = getattr(_quick if _name in _QUICK else _waits, f"pvm_{_name}")
    _function.argtypes = _types
    _function.restype = c_int

_bytes_at = ctypes.pythonapi.PyByteArray_AsString
_bytes_at.argtypes, _bytes_at.restype = (ctypes.py_object,), c_void_p
_size, _tag, _source, _fds = c_int(), c_int(), c_int(), _INTS()
_size_at, _tag_at, _source_at, _fds_at = byref(_size), byref(_tag), byref(_source), byref(_fds)
_initsend, _send, _pkbyte = _quick.pvm_initsend, _waits.pvm_send, _quick.pvm_pkbyte
_nrecv, _bufinfo, _upkbyte = _quick.pvm_nrecv, _quick.pvm_bufinfo, _quick.pvm_upkbyte


def _checked(code: int) -> int:
    if code < 0:
        raise PVMError(code)
    return code


# Membership


def mytid() -> int:
    """This task's id; joins the virtual machine that the environment names, the first time."""
    return _checked(_waits.pvm_mytid())


def parent() -> int | None:
    """The id of the task that spawned this one."""
    code: int = _waits.pvm_parent()
    return code if code > 0 else None


def leave() -> None:
    """``pvm_exit``: leave the machine; the process continues, and may join again."""
    _checked(_waits.pvm_exit())


def halt() -> None:
    """End the virtual machine with all its tasks. Sends SIGTERM to this process, too."""
    _checked(_waits.pvm_halt())


def setopt(what: int, value: int) -> int:
    """Set an option; returns its old value."""
    return _checked(_waits.pvm_setopt(what, value))


def getfds() -> list[int]:
    """File descriptors of the daemon and of direct routes; may change with every call."""
    count = _checked(_quick.pvm_getfds(_fds_at))
    return _fds[:count]


# The machine


def config() -> list[HostInfo]:
    """The hosts of the virtual machine."""
    count, archs, found = c_int(), c_int(), POINTER(_HostInfo)()
    _checked(_waits.pvm_config(byref(count), byref(archs), byref(found)))
    hosts = [found[number] for number in range(count.value)]
    return [HostInfo(h.tid, h.name.decode(), h.arch.decode(), h.speed) for h in hosts]


def tasks(where: int = 0) -> list[TaskInfo]:
    """The tasks of the machine, of a host, or of one id. Blocks for minutes if a host is dead."""
    count, found = c_int(), POINTER(_TaskInfo)()
    _checked(_waits.pvm_tasks(where, byref(count), byref(found)))
    all_of_them = [found[number] for number in range(count.value)]
    return [
        TaskInfo(t.tid, max(t.parent, 0), t.host, t.flag, (t.name or b"").decode(), t.pid)
        for t in all_of_them
    ]


def addhosts(names: Sequence[str]) -> list[int]:
    """Add hosts; returns the daemon's id or an error code for each."""
    infos = (c_int * len(names))()
    _checked(_waits.pvm_addhosts(_strings(names), len(names), infos))
    return list(infos)


def delhosts(names: Sequence[str]) -> list[int]:
    """Remove hosts; returns 0 or an error code for each."""
    infos = (c_int * len(names))()
    _checked(_waits.pvm_delhosts(_strings(names), len(names), infos))
    return list(infos)


def fail_host(tid: int) -> bool:
    """Tell this host's daemon that another one, ``tid``, is dead; returns whether it knew it.

    This is ``pvm_tickle`` with 8, which no page of the manual describes.
    """
    count, answer = c_int(), (c_int * 10)()
    _checked(_waits.pvm_tickle(2, (c_int * 2)(8, tid), byref(count), answer))
    return bool(answer[0])


def tidtohost(tid: int) -> int:
    """The id of a task's daemon."""
    return _checked(_waits.pvm_tidtohost(tid))


# Tasks


def spawn(task: str, arguments: Sequence[str], flag: int, where: str, count: int = 1) -> list[int]:
    """Start tasks; returns the id or an error code for each."""
    tids = (c_int * count)()
    strings = _strings([*arguments, None])
    _checked(_waits.pvm_spawn(task.encode(), strings, flag, where.encode(), count, tids))
    return list(tids)


def kill(tid: int) -> None:
    """End a task by SIGTERM."""
    _checked(_waits.pvm_kill(tid))


def notify(what: int, tag: int, tids: Sequence[int] | None = None, count: int = -1) -> None:
    """Ask for messages with ``tag`` about the ends of tasks or hosts, or ``count`` new hosts."""
    if tids is None:
        _checked(_waits.pvm_notify(what, tag, count, None))
    else:
        _checked(_waits.pvm_notify(what, tag, len(tids), (c_int * len(tids))(*tids)))


def _strings(texts: Sequence[str | None]) -> ctypes.Array[c_char_p]:
    return (c_char_p * len(texts))(*(None if text is None else text.encode() for text in texts))


# Messages


def send(tid: int, tag: int, data: bytes) -> None:
    """Send one message of raw bytes; ``data`` may be used again when this returns."""
    _initsend(DATA_RAW)
    _pkbyte(data, len(data), 1)
    code = _send(tid, tag)
    if code < 0:
        raise PVMError(code)


def send_from(tid: int, tag: int, address: int, size: int) -> None:
    """Send one message of raw bytes at an address in memory, without copying them."""
    _initsend(DATA_IN_PLACE)
    _pkbyte(address, size, 1)
    code = _send(tid, tag)
    if code < 0:
        raise PVMError(code)


def nrecv(tid: int = ANY, tag: int = ANY) -> int:
    """The buffer of a message that has arrived, 0 if none has; its data are unpacked next."""
    code: int = _nrecv(tid, tag)
    if code < 0:
        raise PVMError(code)
    return code


def recv(tid: int = ANY, tag: int = ANY) -> int:
    """The buffer of the next message; blocks until it arrives."""
    return _checked(_waits.pvm_recv(tid, tag))


def bufinfo(buffer: int) -> tuple[int, int, int]:
    """A message's size in bytes, its tag and its sender."""
    _bufinfo(buffer, _size_at, _tag_at, _source_at)
    return _size.value, _tag.value, _source.value


def unpack(size: int) -> bytearray:
    """The next ``size`` bytes of the message."""
    data = bytearray(size)
    if size:
        code = _upkbyte(_bytes_at(data), size, 1)
        if code < 0:
            raise PVMError(code)
    return data


def unpack_to(address: int, size: int) -> None:
    """Copy the next ``size`` bytes of the message to an address in memory."""
    code = _upkbyte(address, size, 1)
    if code < 0:
        raise PVMError(code)


def unpack_ints(count: int) -> list[int]:
    """The next integers of the message, as in notifications."""
    values = (c_int * count)()
    _checked(_quick.pvm_upkint(values, count, 1))
    return list(values)


def address_of(view: memoryview) -> int:
    """The address of a contiguous buffer, also of a read-only one."""
    holder = _PyBuffer()
    _get_buffer(view, byref(holder), 0)
    try:
        return holder.buf or 0
    finally:
        _release_buffer(byref(holder))


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", c_size_t * 16),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, POINTER(_PyBuffer), c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (POINTER(_PyBuffer),)
