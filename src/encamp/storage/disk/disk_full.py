"""Full disks: their free space, and the error of a write that did not fit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from encamp.errors import DiskFull

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def free_space(folder: Path) -> int:
    """Bytes that this user may still write to the disk of ``folder``, or of its parent."""
    try:
        found = os.statvfs(folder)
    except (FileNotFoundError, NotADirectoryError):
        found = os.statvfs(next(path for path in folder.parents if path.exists()))
    return found.f_bavail * found.f_frsize


def disk_full(exc: OSError, path: Path, need: int) -> DiskFull | None:
    """`DiskFull` if ``exc`` means that ``need`` bytes do not fit; otherwise None."""
    return DiskFull(str(path), need, free_space(path)) if exc.errno in _NO_ROOM else None


def not_written(exc: OSError, path: Path, need: int) -> Exception:
    """`disk_full`, or ``exc`` itself, with the name of the file that could not be written."""
    if exc.filename is None:
        exc.filename = str(path)
    return disk_full(exc, path, need) or exc
