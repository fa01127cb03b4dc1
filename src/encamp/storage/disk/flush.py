"""Flushing many files to the disk together, which takes about as long as flushing one."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from encamp.storage.disk.network_delay import is_network_device
from encamp.storage.disk.unsupported_requests import flushed

_SEVERAL = 4
"""From this many files, their whole disk is flushed, if little else waits to be written."""
_LITTLE = 64 << 10
"""Kilobytes."""
_SYNCFS_REPORTS_ERRORS = (5, 8)
"""The first version of Linux whose syncfs(2) reports errors."""


def flush_files(files: Iterable[Path]) -> dict[Path, OSError]:
    """Flush files to the disk; returns those that could not be flushed, and why."""
    failed: dict[Path, OSError] = {}
    disks: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        try:
            disks[file.stat().st_dev].append(file)
        except OSError as exc:
            failed[file] = exc
    for device, on_it in disks.items():
        if len(on_it) < _SEVERAL or not _flushed_whole(device, on_it[0]):
            failed |= _one_by_one(on_it)
    return failed


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk; raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flushed(fd, folder)
    finally:
        os.close(fd)


def _one_by_one(files: list[Path]) -> dict[Path, OSError]:
    failed: dict[Path, OSError] = {}
    for file in files:
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                flushed(fd, file)
            finally:
                os.close(fd)
        except OSError as exc:
            failed[file] = exc
    return failed


def _flushed_whole(device: int, file: Path) -> bool:
    """Flush a file's whole disk; False if that is unreliable or slow here, or fails."""
    if not _can_be_whole(device) or _kilobytes_waiting() > _LITTLE:
        return False
    fd = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return int(ctypes.CDLL(None).syncfs(fd)) == 0
    finally:
        os.close(fd)


@cache
def _can_be_whole(device: int) -> bool:
    """Whether a whole disk may be flushed instead of single files: not network and FUSE disks."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if version is None or not hasattr(ctypes.CDLL(None), "syncfs"):
        return False
    known = tuple(map(int, version.groups())) >= _SYNCFS_REPORTS_ERRORS
    return known and not is_network_device(device)


def _kilobytes_waiting() -> int:
    """Kilobytes that wait to be written to all disks."""
    with suppress(OSError):
        meminfo = Path("/proc/meminfo").read_bytes()
        if found := re.search(rb"^Dirty: +(\d+) kB", meminfo, re.MULTILINE):
            return int(found[1])
    return _LITTLE + 1
