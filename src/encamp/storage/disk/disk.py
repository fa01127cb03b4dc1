"""The properties of a disk: its kind, its free space, what it refuses, and its inode numbers."""

from __future__ import annotations

import errno
import os
import warnings
from functools import lru_cache
from pathlib import Path

from encamp.errors import DiskFull, SourceChanged, UnusableInput, printable

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def free_space(folder: Path) -> int:
    """Bytes that this user may still write to the disk of ``folder``, or of its parent."""
    try:
        found = os.statvfs(folder)
    except (FileNotFoundError, NotADirectoryError):
        found = os.statvfs(next(path for path in folder.parents if path.exists()))
    return found.f_bavail * found.f_frsize


def disk_full(exc: OSError, path: Path, need: int) -> DiskFull | None:
    """`DiskFull` if ``exc`` says that ``need`` bytes do not fit; otherwise None."""
    return DiskFull(str(path), need, free_space(path)) if exc.errno in _NO_ROOM else None


def not_written(exc: OSError, path: Path, need: int) -> Exception:
    """`disk_full`, or ``exc`` itself, with the name of the file that could not be written."""
    if exc.filename is None:
        exc.filename = str(path)
    return disk_full(exc, path, need) or exc


def named_error(exc: OSError, source: str, folder: Path, need: int) -> Exception:
    """The error to raise if ``exc`` broke the copy of ``source`` into ``folder``."""
    if full := disk_full(exc, folder, need):
        return full
    if isinstance(exc, FileNotFoundError):
        return SourceChanged(source)
    return UnusableInput(str(exc.filename or source), (exc.strerror or str(exc)).lower())


_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY}
"""Errors of a disk that does not support a request."""
_told: set[tuple[int, str]] = set()


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
    if key not in _told:
        _told.add(key)
        warnings.warn(f"the disk of {printable(path)} {what}", stacklevel=4)


def kind_and_source(device: int) -> tuple[str, str]:
    """The type of a mounted disk and its source, see proc(5), mountinfo; empty if unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = (
            Path("/proc/self/mountinfo")
            .read_text(encoding="utf-8", errors="surrogateescape")
            .splitlines()
        )
    except OSError:
        return "", ""
    for line in lines:
        if line.split()[2] == wanted:
            kind, source, *_ = line.split(" - ")[1].split()
            return kind, source
    return "", ""


_NUMBERED_ANEW = ("fuse", "vfat", "msdos", "exfat", "cifs", "smb", "9p", "afs")
"""Kinds of disks whose files may get other inode numbers at each mount."""


def keeps_owners(device: int) -> bool:
    """Whether a disk shows the same owner of a file on all hosts."""
    return not kind_and_source(device)[0].startswith(_NUMBERED_ANEW)


class Disks:
    """Names of disks, looked up once per object, since another disk may be mounted later."""

    def __init__(self) -> None:
        self._names: dict[int, str | None] = {}

    def lasting_number(self, path: Path | str, status: os.stat_result) -> str:
        """A string that identifies a file among those of all disks, even after a restart.

        It has the inode number and a name of the disk; empty if the disk's numbers do not last.
        """
        device = status.st_dev
        if device not in self._names:
            self._names[device] = _name_of_disk(device, os.statvfs(path).f_fsid)
        disk = self._names[device]
        return "" if disk is None else f"{status.st_ino}@{disk}"


@lru_cache(maxsize=1000)
def _name_of_disk(device: int, number: int) -> str | None:
    """``number`` is the disk's own, from statfs(2)."""
    kind, source = kind_and_source(device)
    if kind.startswith(_NUMBERED_ANEW):
        return None
    return source if kind == "xfs" else str(number)  # XFS tells the device's, which may change
