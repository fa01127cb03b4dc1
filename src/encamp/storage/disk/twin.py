"""Copying everything in a folder as it is, for a person to inspect; nothing in it is refused."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from encamp.errors import UnusableInput
from encamp.storage.disk.copy import copy_file

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_as_it_is(source: Path, target: Path) -> None:
    """Copy what is in one folder to another, which may hold some of it already.

    Named pipes and holes come along, sockets and devices do not; what this process may not read
    is left out. However deep the folders are, this holds few of them open and does not recurse.
    """
    pair = os.open(source, _FOLDER), os.open(target, _FOLDER)
    names, levels = [""], [_copy_level(*pair)]
    try:
        while True:
            while levels[-1]:
                name = levels[-1].pop()
                with suppress(PermissionError):
                    pair = _moved(pair, name)
                    names.append(name)
                    levels.append(_copy_level(*pair))
            if len(levels) == 1:
                break
            levels.pop()
            pair = _moved(pair, "..")
            _copy_status(*pair, names.pop())
    finally:
        for fd in pair:
            os.close(fd)


def _moved(pair: tuple[int, int], name: str) -> tuple[int, int]:
    """Two other folders in place of two open ones, which stay open if this raises."""
    reader = os.open(name, _FOLDER, dir_fd=pair[0])
    try:
        writer = os.open(name, _FOLDER, dir_fd=pair[1])
    except BaseException:
        os.close(reader)
        raise
    for fd in pair:
        os.close(fd)
    return reader, writer


def _copy_level(reader: int, writer: int) -> list[str]:
    """Copy what is in one folder but for what is in its folders, whose names are returned."""
    folders = []
    for name in os.listdir(reader):
        status = os.stat(name, dir_fd=reader, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        with suppress(PermissionError, FileExistsError, UnusableInput):
            if kind == stat.S_IFDIR:
                folders.append(name)
                os.mkdir(name, 0o700, dir_fd=writer)
            elif kind == stat.S_IFLNK:
                os.symlink(os.readlink(name, dir_fd=reader), name, dir_fd=writer)
            elif kind == stat.S_IFIFO:
                os.mkfifo(name, stat.S_IMODE(status.st_mode), dir_fd=writer)
            elif kind == stat.S_IFREG:
                mode = stat.S_IMODE(status.st_mode)
                there, here = (f"/proc/self/fd/{fd}/{name}" for fd in (reader, writer))
                copy_file(there, here, None, mode=mode or 0o200)
    return folders


def _copy_status(reader: int, writer: int, name: str) -> None:
    status = os.stat(name, dir_fd=reader, follow_symlinks=False)
    os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=writer)
    times = status.st_atime_ns, status.st_mtime_ns
    os.utime(name, ns=times, dir_fd=writer, follow_symlinks=False)
