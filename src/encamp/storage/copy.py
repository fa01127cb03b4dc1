"""Copying one file so that it is whole, unchanged and of the expected state."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from encamp.errors import SourceChanged, UnusableInput

_CHUNK = 1 << 26
_NO_FAST_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


def copy_file(
    source: Path | str, target: Path | str, expected: tuple[int, int] | None, mode: int = 0
) -> None:
    """Copy a regular file with its permissions and modification time to a new file.

    ``expected`` is the size and mtime_ns that the source must have before and after the copy,
    otherwise `SourceChanged`; ``mode`` replaces the permissions. The disk's own copy is used
    where it has one (a reflink costs no data), see copy_file_range(2). Raises `UnusableInput` for
    what is no regular file, FileExistsError if the target is there, OSError from the disk.
    On any error no target is left.
    """
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(reader)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableInput(str(source), "it is no longer a regular file")
        if expected is not None and (status.st_size, status.st_mtime_ns) != expected:
            raise SourceChanged(str(source))
        _write_new(reader, status, source, target, mode or stat.S_IMODE(status.st_mode) | 0o200)
    finally:
        os.close(reader)


def _write_new(
    reader: int, status: os.stat_result, source: Path | str, target: Path | str, mode: int
) -> None:
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _fill(reader, writer, status, source, target)
            os.fchmod(writer, mode & 0o777)
            os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(writer)  # may tell of bytes that the disk could not keep after all
    except BaseException:
        Path(target).unlink(missing_ok=True)
        raise


def _fill(
    reader: int, writer: int, status: os.stat_result, source: Path | str, target: Path | str
) -> None:
    copied = _copy_bytes(reader, writer, status.st_size)
    now = os.fstat(reader)
    before = (status.st_size, status.st_mtime_ns)
    if copied != status.st_size or (now.st_size, now.st_mtime_ns) != before:
        raise SourceChanged(str(source))
    if os.fstat(writer).st_size != copied:
        raise OSError(errno.EIO, "the disk kept fewer bytes than were written", str(target))


def _copy_bytes(reader: int, writer: int, size: int) -> int:
    copied = 0
    try:
        while copied < size:
            count = os.copy_file_range(reader, writer, min(_CHUNK, size - copied))
            if count == 0:
                return copied
            copied += count
    except OSError as exc:
        if exc.errno not in _NO_FAST_COPY:
            raise
        return copied + _copy_plain(reader, writer, size - copied)
    return copied


def _copy_plain(reader: int, writer: int, size: int) -> int:
    copied = 0
    while copied < size:
        block = os.read(reader, min(1 << 20, size - copied))
        if not block:
            break
        view = memoryview(block)
        while view:
            view = view[os.write(writer, view) :]
        copied += len(block)
    return copied
