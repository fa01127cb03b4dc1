"""The owners of files as disks show them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from secrets import token_hex

from encamp.errors import printable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def uid_of_new_files(folder: Path | int) -> int | None:
    """The owner that a disk shows for our new files in a folder; None if none can be created.

    ``folder`` may be a descriptor.
    """
    try:
        at = os.open(folder, _FOLDER) if isinstance(folder, Path) else os.dup(folder)
    except OSError:
        return None
    name = f".owner.{token_hex(8)}.tmp"
    try:
        fd = os.open(name, os.O_WRONLY | _NEW, 0o600, dir_fd=at)
        try:
            return os.fstat(fd).st_uid
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=at)
    except OSError:
        return None
    finally:
        os.close(at)


def name_of_user(uid: int) -> str:
    """A user's name; the number if there is none."""
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)
