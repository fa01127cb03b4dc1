"""The kind of a mounted disk, and whether it keeps owners and inode numbers of files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from encamp.storage.disk import mountinfo


def kind_and_source(device: int) -> tuple[str, str]:
    """The type of a mounted disk and its source, see proc(5), mountinfo; empty if unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    try:
        mounts = mountinfo.read()
    except OSError:
        return "", ""
    for line in mounts.split(b"\n"):
        fields = line.split(b" ")
        if fields[2:3] == [wanted]:
            kind = fields.index(b"-", 6) + 1
            return os.fsdecode(fields[kind]), os.fsdecode(fields[kind + 1])
    return "", ""


_NUMBERED_ANEW = ("fuse", "vfat", "msdos", "exfat", "cifs", "smb", "9p", "afs")
"""Kinds of disks whose files may get other inode numbers at each mount."""


def keeps_owners(device: int) -> bool:
    """Whether a disk shows the same owner of a file on all hosts."""
    return not kind_and_source(device)[0].startswith(_NUMBERED_ANEW)


class LastingNumbers:
    """Inode numbers with names of disks, each of which an object looks up once.

    (Another disk may be mounted later.)
    """

    def __init__(self) -> None:
        self._names: dict[int, str | None] = {}

    def of(self, path: Path | str, status: os.stat_result) -> str:
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
    return source if kind == "xfs" else str(number)  # XFS reports the device's, which may change
