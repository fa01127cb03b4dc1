"""Waiting, for a limited time, until a network disk shows what another host has written.

NFS and similar disks answer from memory for some seconds: an existing file is not seen, or is seen
in an older state. Opening its folder makes them look again (see nfs(5), close-to-open consistency).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from encamp.errors import UnusableInput
from encamp.storage.disk.disk_kind import kind_and_source
from encamp.storage.shared_folders import Portable, local

WAIT = "ENCAMP_VISIBLE_WAIT"
_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "fuse",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "afs",
    "9p",
    "virtiofs",
)


_BELIEVED = 60.0
_unseen: dict[Portable, float] = {}


def until_visible(path: Path, size: int) -> os.stat_result:
    """The status of a file that another host has written, of ``size`` bytes.

    On a network disk, waits for it, up to ENCAMP_VISIBLE_WAIT seconds (10 by default). Returns the
    final status whatever its size; raises FileNotFoundError if the file does not appear.
    """
    found = _look_again_until(path, lambda status: status is not None and status.st_size >= size)
    return path.stat() if found is None else found


def sees(path: Portable) -> bool:
    """Whether this host sees a file that another host has made; on a network disk it may wait.

    A negative answer is cached for a while.
    """
    if time.monotonic() < _unseen.get(path, 0.0):
        return False
    try:
        until_visible(local(path), 0)
    except (OSError, UnusableInput):
        _unseen[path] = time.monotonic() + _BELIEVED
        return False
    return True


def until_not_older(path: Path, mtime_ns: int) -> None:
    """On a network disk, wait until a file is at least as new as ``mtime_ns``.

    Waits as long as `until_visible`.
    """
    _look_again_until(path, lambda status: status is not None and status.st_mtime_ns >= mtime_ns)


def _look_again_until(
    path: Path, good: Callable[[os.stat_result | None], bool]
) -> os.stat_result | None:
    """The status if it was good at once; None after a wait."""
    if good(status := _status(path)):
        return status
    if not is_network_disk(path):
        return None
    pause, end = _FIRST_PAUSE, time.monotonic() + wait_seconds()
    while time.monotonic() < end and not good(_status(path)):
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE)
        with suppress(OSError), os.scandir(path.parent) as entries:
            next(entries, None)
    return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def wait_seconds() -> float:
    """Seconds to wait: ENCAMP_VISIBLE_WAIT if that is a number, or the default."""
    with suppress(ValueError):
        seconds = float(os.environ.get(WAIT, _SECONDS))
        return seconds if math.isfinite(seconds) else _SECONDS
    return _SECONDS


def is_network_disk(path: Path) -> bool:
    """Whether a path, or its nearest existing parent, is on a network disk."""
    there = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    return is_network_device(there.stat().st_dev)


def is_network_device(device: int) -> bool:
    """Whether the device of this number, from `os.stat`, is a network disk."""
    return kind_and_source(device)[0].startswith(_NETWORK)
