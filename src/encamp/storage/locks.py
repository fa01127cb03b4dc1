"""Locks for any number of keys in one file, which the kernel drops with their holders.

One byte of the file stands for a key. Open-file-description locks, see fcntl(2): they go with the
last copy of their descriptor, and when they are given up, whatever was forked meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class KeyLock:
    """A lock on one key, free to begin with; not for sharing between threads."""

    def __init__(self, file: Path, key: str) -> None:
        self._byte = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest())
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def share(self) -> None:
        """Hold it together with others who share it; waits for one who holds it alone."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, self._request(fcntl.F_RDLCK))

    def take(self) -> None:
        """Hold it alone; waits for all others."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, self._request(fcntl.F_WRLCK))

    def take_if_free(self) -> bool:
        """Hold it alone if nobody else has it; never waits."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._request(fcntl.F_WRLCK))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let it be free again."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._request(fcntl.F_UNLCK))

    def close(self) -> None:
        """Give it up; may be called twice."""
        if self._fd >= 0:
            with suppress(OSError):
                self.release()
            with suppress(OSError):  # it is closed whatever close(2) says
                os.close(self._fd)
            self._fd = -1

    def _request(self, kind: int) -> bytes:
        return struct.pack("hhqqixxxx", kind, os.SEEK_SET, self._byte, 1, 0)


@contextmanager
def alone(file: Path, key: str) -> Iterator[None]:
    """Hold the lock of ``key`` alone for the time of a block."""
    lock = KeyLock(file, key)
    try:
        lock.take()
        yield
    finally:
        lock.close()


@contextmanager
def alone_if_free(file: Path, key: str) -> Iterator[bool]:
    """Hold the lock of ``key`` alone for the time of a block if nobody else has it, and say so."""
    lock = KeyLock(file, key)
    try:
        yield lock.take_if_free()
    finally:
        lock.close()


@contextmanager
def shared(file: Path, key: str) -> Iterator[None]:
    """Hold the lock of ``key`` together with others for the time of a block."""
    lock = KeyLock(file, key)
    try:
        lock.share()
        yield
    finally:
        lock.close()
