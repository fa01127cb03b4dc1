"""Keeping cleaners of temporary files away from the local storage.

systemd-tmpfiles skips a folder, and everything below it, while a process holds a flock(2) lock on
it, see tmpfiles.d(5). Other cleaners have no such rule; `is_intact` notices what they remove.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

_held: dict[Path, tuple[int, os.stat_result]] = {}
"""Folder → descriptor that shares its lock until this process ends, and its status when opened."""


def keep_off(folder: Path) -> None:
    """Share the lock of ``folder`` while this process lives; may be called repeatedly.

    Does nothing if the disk has no such locks, or a cleaner is working there just now.
    """
    held = _held.get(folder)
    now = _status(held[0]) if held is not None else None
    ours = held is not None and now is not None and os.path.samestat(now, held[1])
    if ours and now is not None and now.st_nlink > 0:
        return
    with suppress(OSError):
        if held is not None and ours:  # the folder was removed, and made again
            os.close(held[0])
        _held.pop(folder, None)
        if (fd := locked(folder, fcntl.LOCK_SH)) is not None:
            _held[folder] = fd, os.fstat(fd)


def _status(fd: int) -> os.stat_result | None:
    """The status of an open descriptor: anybody in this process may have closed it."""
    try:
        return os.fstat(fd)
    except OSError:
        return None


def locked(folder: Path, kind: int) -> int | None:
    """A descriptor that holds the lock of a folder; None if the lock is not free."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
