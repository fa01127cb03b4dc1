"""What a disk refuses, by name: how much room there is, and which error says that it ran out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from encamp.errors import DiskFull, SourceChanged, UnusableInput

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def free_space(folder: Path) -> int:
    """Bytes that this user may still write to the disk of ``folder``, or of what is above it."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def disk_full(exc: OSError, path: Path, need: int) -> DiskFull | None:
    """`DiskFull` if ``exc`` says that there is no room for ``need`` bytes; None for all else."""
    return DiskFull(str(path), need, free_space(path)) if exc.errno in _NO_ROOM else None


def named_error(exc: OSError, source: str, folder: Path, need: int) -> Exception:
    """The error to raise where ``exc`` broke the copy of ``source`` to somewhere in ``folder``."""
    if full := disk_full(exc, folder, need):
        return full
    if isinstance(exc, FileNotFoundError):
        return SourceChanged(source)
    return UnusableInput(str(exc.filename or source), (exc.strerror or str(exc)).lower())
