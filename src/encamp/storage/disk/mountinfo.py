"""The kernel's list of mounts, ``/proc/self/mountinfo``, see proc(5)."""

from __future__ import annotations

import os


def read() -> bytes:
    """The whole list; read without a file object, because it is read for every folder."""
    fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


_OCTAL = b"134", b"040", b"011", b"012"
"""Characters written in octal in mountinfo, see proc(5): backslash, space, tab, newline."""


def escaped(path: str) -> bytes:
    """A path as it is written there."""
    written = os.fsencode(path)
    for code in _OCTAL:
        written = written.replace(bytes([int(code, 8)]), b"\\" + code)
    return written


def unescaped(field: bytes) -> str:
    """The path of an escaped one."""
    plain = field
    for code in reversed(_OCTAL):
        plain = plain.replace(b"\\" + code, bytes([int(code, 8)]))
    return os.fsdecode(plain)
