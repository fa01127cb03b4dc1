"""Requests that some disks do not support: to flush a file, and to keep its permissions."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

from encamp.errors import printable

_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY}
"""Errors of a disk that does not support a request."""
_logged: set[tuple[int, str]] = set()


def flushed(fd: int, path: Path | str) -> None:
    """Flush a file to the disk; warns once about a disk without support for it. Raises OSError."""
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in _UNKNOWN:
            raise
        _warn_once(fd, path, "cannot flush: new files may be lost in a power cut")


def set_permissions(fd: int, mode: int, path: Path | str) -> None:
    """Set a file's permissions; warns once about a disk that keeps none (FAT). Raises OSError."""
    try:
        os.fchmod(fd, mode)
    except OSError as exc:
        if exc.errno not in {*_UNKNOWN, errno.EPERM}:
            raise
        _warn_once(fd, path, "keeps no permissions of files")


def _warn_once(fd: int, path: Path | str, what: str) -> None:
    key = os.fstat(fd).st_dev, what
    if key not in _logged:
        _logged.add(key)
        warnings.warn(f"the disk of {printable(path)} {what}", stacklevel=4)
