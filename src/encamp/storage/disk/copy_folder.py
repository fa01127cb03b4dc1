"""Copying a folder with all kinds of files, for a person to inspect."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from encamp.errors import UnusableInput
from encamp.storage.disk.copy_file import copy_file

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_as_it_is(source: Path, target: Path) -> None:
    """Copy the contents of a folder into another one, which may have some of it already.

    Named pipes and holes are copied, too; sockets, devices and files that this process cannot read
    are left out. Folders may be of any depth: few are open at a time, and nothing recurses.
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
    """Replace two open folders by two others. The first two stay open if this raises."""
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
    """Copy the files of a folder; returns the names of its folders."""
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
