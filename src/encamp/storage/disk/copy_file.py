"""Copying one file so that it is complete, unchanged and in the expected state."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from encamp.errors import SourceChanged, UnusableInput
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.holes import data_parts, is_sparse
from encamp.storage.disk.write_all import write_all

_CHUNK = 1 << 26
_NO_FAST_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_SHORT = "the disk kept fewer bytes than were written"


def copy_file(
    source: Path | str, target: Path | str, expected: tuple[int, int] | None, mode: int = 0
) -> None:
    """Copy a regular file with its permissions and modification time to a new file.

    ``expected`` is the size and mtime_ns that the source must have before and after the copy,
    otherwise `SourceChanged`; ``mode`` replaces the permissions. Uses the disk's own copy if it has
    one (a reflink costs no data), see copy_file_range(2); holes stay holes. Raises `UnusableInput`
    for a file that is not regular or does not hold its size in bytes, FileExistsError if the target
    exists, OSError from the disk. On any error no target is left.
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
            os.close(writer)  # may report bytes that the disk could not keep after all
    except BaseException:
        Path(target).unlink(missing_ok=True)
        raise


def _fill(
    reader: int, writer: int, status: os.stat_result, source: Path | str, target: Path | str
) -> None:
    copied = _copy_parts(reader, writer, status)
    more = copied and os.pread(reader, 1, status.st_size)
    now = os.fstat(reader)
    if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise SourceChanged(str(source))
    if not copied or more:
        raise UnusableInput(str(source), false_size(status.st_size))
    if os.fstat(writer).st_size != status.st_size:
        raise OSError(errno.EIO, _SHORT, str(target))


def false_size(size: int) -> str:
    """The error for a file that does not contain as many bytes as its status shows."""
    return (
        f"it does not hold the {size} bytes that the disk reports, like files that the kernel "
        "generates; read it in a step, or copy it to a regular file first"
    )


def check_size(path: Path | str, status: os.stat_result) -> None:
    """Raise `UnusableInput` for a file without blocks on its disk whose size is false."""
    if status.st_blocks:
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = status.st_size
        whole = not size or os.pread(fd, 1, size - 1)
        if (not whole or os.pread(fd, 1, size)) and os.fstat(fd).st_size == size:
            raise UnusableInput(str(path), false_size(size))
    finally:
        os.close(fd)


def _copy_parts(reader: int, writer: int, status: os.stat_result) -> bool:
    """Copy everything except holes; returns whether the expected number of bytes was there."""
    size = status.st_size
    if not is_sparse(status):
        return _copy_bytes(reader, writer, size, 0) == size
    for begin, end in data_parts(reader, size):
        if _copy_bytes(reader, writer, end - begin, begin) != end - begin:
            return False
    os.ftruncate(writer, size)
    return True


def _copy_bytes(reader: int, writer: int, size: int, start: int) -> int:
    """Copy ``size`` bytes from ``start`` on to the same offset; returns how many there were."""
    at, end = start, start + size
    os.lseek(writer, start, os.SEEK_SET)
    try:
        while at < end:
            count = os.copy_file_range(reader, writer, min(_CHUNK, end - at), at)
            if count == 0:
                break  # the end, or a disk that cannot do it
            at += count
    except OSError as exc:
        if exc.errno not in _NO_FAST_COPY:
            raise
    _check_written(writer, at)
    return at - start + _copy_plain(reader, writer, end - at, at)


def _copy_plain(reader: int, writer: int, size: int, start: int) -> int:
    copied = 0
    while copied < size:
        block = os.pread(reader, min(1 << 20, size - copied), start + copied)
        if not block:
            break
        write_at(writer, block, start + copied)
        copied += len(block)
    return copied


def write_at(fd: int, data: bytes, at: int) -> None:
    """Write all of ``data`` at an offset of a file. Raises OSError if the disk does not."""
    os.lseek(fd, at, os.SEEK_SET)
    write_all(fd, data)
    _check_written(fd, at + len(data))


def _check_written(fd: int, at: int) -> None:
    """Check the file's position, since some disks report more bytes than they wrote."""
    if os.lseek(fd, 0, os.SEEK_CUR) != at:
        raise OSError(errno.EIO, _SHORT)


def copy_error(exc: OSError, source: str, folder: Path, need: int) -> Exception:
    """The error to raise if ``exc`` broke the copy of ``source`` into ``folder``."""
    if full := disk_full(exc, folder, need):
        return full
    if isinstance(exc, FileNotFoundError):
        return SourceChanged(source)
    return UnusableInput(str(exc.filename or source), (exc.strerror or str(exc)).lower())
