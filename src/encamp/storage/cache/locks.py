"""Locks for any number of keys in one file, which the kernel drops with their holders.

One byte of the file stands for a key. They are open-file-description locks, see fcntl(2): the
kernel drops them with the last copy of their descriptor, and unlocking works whatever was forked
in the meantime.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FRESH = 3600.0
"""Seconds after which a file of locks that is in use is marked as used."""


class KeyLock:
    """A lock on one key, initially free; for one thread at a time."""

    def __init__(self, file: Path, key: str) -> None:
        self._file = file
        self._byte = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest())
        self._fd = self._opened()

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._file, flags, 0o600)

    def share(self) -> None:
        """Share it; waits for an exclusive holder."""
        self._hold(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK)

    def take(self) -> None:
        """Hold it exclusively; waits for all others."""
        self._hold(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK)

    def take_if_free(self) -> bool:
        """Hold it exclusively if it is free; never waits."""
        try:
            self._hold(fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
        except BlockingIOError:
            return False
        return True

    def _hold(self, how: int, kind: int) -> None:
        """Take the lock; again in a new file if a cleaner of temporary files removed this one."""
        while True:
            fcntl.fcntl(self._fd, how, self._request(kind))
            status = os.fstat(self._fd)
            if status.st_nlink:
                break
            os.close(self._fd)
            self._fd = self._opened()
        if time.time() - status.st_mtime > _FRESH:
            os.utime(self._fd)  # cleaners leave alone what was used a short while ago

    def release(self) -> None:
        """Unlock it."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._request(fcntl.F_UNLCK))

    def close(self) -> None:
        """Release it for good. Idempotent."""
        if self._fd >= 0:
            with suppress(OSError):
                self.release()
            with suppress(OSError):  # it is closed whatever close(2) says
                os.close(self._fd)
            self._fd = -1

    def _request(self, kind: int) -> bytes:
        return struct.pack("hhqqixxxx", kind, os.SEEK_SET, self._byte, 1, 0)


@contextmanager
def exclusive(file: Path, key: str) -> Iterator[None]:
    """Hold the lock of ``key`` exclusively during a block."""
    lock = KeyLock(file, key)
    try:
        lock.take()
        yield
    finally:
        lock.close()


@contextmanager
def shared(file: Path, key: str) -> Iterator[None]:
    """Share the lock of ``key`` during a block."""
    lock = KeyLock(file, key)
    try:
        lock.share()
        yield
    finally:
        lock.close()
