"""Removing folders: never through a symlink, never outside the local storage."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from encamp.errors import UnsafeTarget

_TRIES = 20
"""A process that outlived its task may still make files while the folder goes."""
_CHANGES = {errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""What is told of a folder that changes meanwhile."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def strike(folder: Path, root: Path) -> None:
    """Remove ``folder`` and all that is in it; nothing happens if it is not there.

    Folders whose owner may not write to them are opened first. Raises `UnsafeTarget` for a
    folder that is not below ``root``, also by a symlink, OSError for what cannot be removed.
    """
    if folder == root or not folder.is_relative_to(root) or ".." in folder.parts:
        raise UnsafeTarget(str(folder), f"is not in the local storage {root}")
    inner = folder.parent.relative_to(root)
    if os.path.realpath(folder.parent) != str(Path(os.path.realpath(root), inner)):
        raise UnsafeTarget(str(folder), f"leaves the local storage {root} by a symlink")
    if folder.is_symlink() or folder.is_file():
        folder.unlink(missing_ok=True)
    else:
        _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            _remove_now(folder)
        except FileNotFoundError:
            if not os.path.lexists(folder):
                return
            if not left:
                raise
        except PermissionError:
            if not left:
                raise
            _open_folders(folder)
        except OSError as exc:
            if exc.errno not in _CHANGES or not left:
                raise
        else:
            return


def _remove_now(folder: Path) -> None:
    above = os.open(folder.parent, _FOLDER)
    try:
        _remove_in(above, folder.name)
    finally:
        os.close(above)


def _remove_in(above: int, name: str) -> None:
    """Remove a folder of the open folder ``above``.

    As `shutil.rmtree`, but no path is put together for a file, which is a fifth of the time.
    """
    fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    try:
        with os.scandir(fd) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_in(fd, entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=above)


def _open_folders(top: Path) -> None:
    """Give the owner all rights on ``top`` and the folders below it; symlinks are left alone."""
    pending = [top]
    while pending:
        folder = pending.pop()
        folder.chmod(stat.S_IMODE(folder.lstat().st_mode) | 0o700)
        with os.scandir(folder) as entries:
            pending.extend(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
