"""The file of a journal: lines are added at its end, and read again by their positions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from encamp.jobs.journal.record import Line, seen
from encamp.storage.disk.disk_full import not_written
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder
from encamp.storage.disk.unsupported_requests import flushed
from encamp.storage.disk.write_all import write_all

NAME = "journal.jsonl"
_LONGEST_LINE = 1 << 28
"""Maximum number of bytes in a line; longer ones are not encamp's."""
_READ_AT_ONCE = 1 << 20
"""Bytes of the file, which may have a million lines."""
_LENGTH = 32
"""Bits of an extent for the length: a number takes less memory than a pair, for a million lines."""


def extent(start: int, length: int) -> int:
    """The position of a line in the file, as one number."""
    return start << _LENGTH | length


def length_of(at: int) -> int:
    """The bytes of a line at such a position."""
    return at % (1 << _LENGTH)


class JournalFile:
    """The journal in a job's folder. To read a line, it is opened by its name if it is not open."""

    def __init__(self, folder: TrustedFolder, fd: int = -1) -> None:
        self._folder, self._fd = folder, fd
        self._end = 0
        """The offset of the next line."""

    def open(self, files: TrustedFiles) -> None:
        """Open it for `append`."""
        self.close()
        self._fd = files.open(NAME, os.O_RDWR | os.O_APPEND)
        self._end = os.fstat(self._fd).st_size

    def append(self, lines: list[bytes]) -> list[int]:
        """Add lines; returns their extents. Raises `DiskFull`, or OSError from the disk."""
        data = b"".join(lines)
        try:
            write_all(self._fd, data)
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end)  # an incomplete line would damage the next one
            raise not_written(exc, self._folder.path, len(data)) from exc
        extents = []
        for line in lines:
            extents.append(extent(self._end, len(line)))
            self._end += len(line)
        return extents

    def line(self, at: int) -> bytes:
        """The line at a position."""
        if self._fd < 0:
            with self._folder.opened() as files:
                self._fd = files.open(NAME)
        start, length = divmod(at, 1 << _LENGTH)
        return os.pread(self._fd, length, start)

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        flushed(self._fd, self._folder.path)

    def kept(self) -> JournalFile:
        """A copy; if the file is open now, all can be read as long as the copy exists."""
        return JournalFile(self._folder, os.dup(self._fd) if self._fd >= 0 else -1)

    def close(self) -> None:
        """Close the file until a line is needed. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


def opened(files: TrustedFiles) -> int:
    """A descriptor of the journal; raises `NotOurs` if another user may have put it there."""
    fd = files.open(NAME)
    try:
        files.check_writers()
    except BaseException:
        os.close(fd)
        raise
    return fd


def lines_of(files: TrustedFiles) -> Iterator[tuple[Line, int]]:
    """The lines of the journal in a folder, and their extents; raises FileNotFoundError."""
    with os.fdopen(opened(files), "rb", _READ_AT_ONCE) as file:
        start, end = 0, os.fstat(file.fileno()).st_size
        while start < end and (line := file.readline(_LONGEST_LINE)):
            if line.endswith(b"\n") and (record := seen(line)) is not None:
                yield record, extent(start, len(line))
            start += len(line)
