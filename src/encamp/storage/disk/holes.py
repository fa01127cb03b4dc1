"""Sparse files: where their bytes are, and how much of a disk they take."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

_SMALL = 1 << 16
"""Smaller files are not checked, because disks may store them outside blocks."""


def allocated(status: os.stat_result) -> int:
    """The bytes of disk space that a file needs: fewer than its size if it has holes."""
    return min(status.st_size, status.st_blocks * 512) if is_sparse(status) else status.st_size


def is_sparse(status: os.stat_result) -> bool:
    """Whether a file may have holes."""
    return status.st_size > max(_SMALL, status.st_blocks * 512)


def data_parts(fd: int, size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """The parts of a file with data, from ``start`` on: begin and end, see lseek(2), SEEK_DATA.

    One part with everything if the disk does not report holes.
    """
    at = start
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return  # nothing but a hole is left
            begin, end = at, size
        if begin < end:
            yield begin, end
        at = max(end, begin)
