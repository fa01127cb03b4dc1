"""Removing folders of any depth: never through a symlink, never outside the local storage.

Each folder is opened relative to its parent, so no path is too long. Only one is open at a time,
and the way back up is "..", so there may be any number of levels.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from encamp.errors import UnsafeTarget, printable

_TRIES = 20
"""How often removal is tried, because a process that outlives its task may still create files."""
_CHANGES = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ESTALE}
"""Errors of a folder that changes while it is removed."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FEW = 4
"""Folders with up to this many levels are removed with one open descriptor per level."""
_LONGEST = 300
_NAMED = 3
"""How many files that could not be removed are named in a message."""


class NotRemoved(OSError):
    """Some files in a folder cannot be removed; all others were."""

    def __init__(self, stayed: dict[str, OSError]) -> None:
        self.paths = list(stayed)
        some = list(stayed.items())[:_NAMED]
        text = ", ".join(f"{_shortened(path)}: {exc.strerror or exc}" for path, exc in some)
        more = len(stayed) - len(some)
        super().__init__(text + (f", and {more} more" if more else ""))


def _shortened(path: str) -> str:
    text = printable(path)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def not_removed(path: Path, exc: OSError, stayed: dict[Path, OSError] | None = None) -> None:
    """Note a path that cannot be removed in ``stayed``, or warn about it."""
    if stayed is None:
        warnings.warn(f"cannot remove the leftover {printable(path)}: {exc}", stacklevel=4)
    else:
        stayed[path] = exc


def remove_tree(folder: Path, root: Path, mounted: Collection[str] = ()) -> None:
    """Remove ``folder`` with its contents; does nothing if it does not exist.

    Folders without write permission for their owner are made writable first. What is ``mounted`` in
    it, or on another disk, is left alone. Raises `UnsafeTarget` for a folder that is not below
    ``root``, also through a symlink, and `NotRemoved` after removing everything else.
    """
    *names, name = _names_below(folder, root)
    for left in reversed(range(_TRIES)):
        try:
            above = _opened_above(folder, root, names)
        except FileNotFoundError:
            return
        if not mounted and removed_at_once(name, above):
            os.close(above)
            return
        removal = _Removal(folder, above, mounted)
        removal.run()
        if not removal.stayed:
            return
        if not left or not removal.changed:
            raise NotRemoved(removal.stayed)


def _names_below(folder: Path, root: Path) -> list[str]:
    """The names in the path from ``root`` to ``folder``. Raises `UnsafeTarget`."""
    top, whole = f"{root}/", str(folder)
    names = whole.removeprefix(top).split("/")
    if not whole.startswith(top) or ".." in names:
        raise UnsafeTarget(whole, f"is not in the local storage {root}")
    return names


def _opened_above(folder: Path, root: Path, names: list[str]) -> int:
    """A descriptor of the parent of ``folder``, reached without symlinks below ``root``."""
    fd = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
    for name in names:
        try:
            below = os.open(name, _FOLDER, dir_fd=fd)
        except OSError:
            if _is_link(name, fd):
                why = f"leaves the local storage {root} through a symlink"
                raise UnsafeTarget(str(folder), why) from None
            raise
        finally:
            os.close(fd)
        fd = below
    return fd


def removed_at_once(name: str, above: int) -> bool:
    """Remove a folder with few levels, as most are; False if anything about it is unusual.

    It is in the folder with the descriptor ``above``. If something is mounted there, or in it, that
    is left alone.
    """
    try:
        _remove_levels(name, above, _FEW)
    except OSError:
        return False
    return True


def _remove_levels(name: str, above: int, levels: int) -> None:
    fd = _opened_here(name, above)
    try:
        with os.scandir(fd) as found:
            entries = list(found)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=fd)
            elif levels > 1:
                _remove_levels(entry.name, fd, levels - 1)
        os.rmdir(name, dir_fd=above)
    finally:
        os.close(fd)


def _opened_here(name: str, above: int) -> int:
    """A descriptor of a folder with nothing mounted on it, see openat2(2), RESOLVE_NO_XDEV.

    Raises OSError, for example if the kernel lacks the call (before Linux 5.6).
    """
    fd = _syscall(_OPENAT2, above, os.fsencode(name), _HOW, len(_HOW))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return int(fd)


_OPENAT2 = 437
_HOW = struct.pack("QQQ", _FOLDER, 0, 1)
"""Flags, mode, and how the name may be resolved."""
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t
_syscall.restype = ctypes.c_long


def _is_link(name: str, above: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except OSError:
        return False


class _Level(msgspec.Struct):
    """A folder being removed: its name in its parent, its identity, its contents."""

    name: str
    status: os.stat_result
    folders: list[str] = msgspec.field(default_factory=list)
    stays: bool = False
    """Whether something in it cannot be removed."""


class _Removal:
    """One pass over a folder; it takes over ``above``, the descriptor of its parent."""

    def __init__(self, top: Path, above: int, mounted: Collection[str]) -> None:
        self._top, self._fd = top, above
        self._mounted = mounted
        self._levels: list[_Level] = []
        self.stayed: dict[str, OSError] = {}
        """By path from the folder above the top, what could not be removed."""
        self.changed = False
        """Whether another pass may remove more."""

    def run(self) -> None:
        """Remove what can be removed."""
        try:
            self._levels.append(_Level("", os.fstat(self._fd)))
            self._remove(self._top.name)
            while len(self._levels) > 1 and not self._has_moved():
                if folders := self._levels[-1].folders:
                    self._enter(folders.pop())
                else:
                    self._leave()
        finally:
            os.close(self._fd)

    def _remove(self, name: str) -> None:
        with self._noting(name):
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._enter(name)
            else:
                os.unlink(name, dir_fd=self._fd)

    def _enter(self, name: str) -> None:
        """Open a folder of the open one in its place, and remove the files in it."""
        with self._noting(name):
            fd, status = _opened(name, self._fd)
            foreign = status.st_dev != self._levels[-1].status.st_dev
            if foreign or (self._mounted and self._path(name) in self._mounted):
                os.close(fd)
                raise OSError(errno.EBUSY, "something is mounted there")
            os.close(self._fd)
            self._fd = fd
            self._levels.append(_Level(name, status))
            self._empty()

    def _empty(self) -> None:
        with os.scandir(self._fd) as found:
            entries = list(found)
        for entry in entries:
            with self._noting(entry.name):
                if entry.is_dir(follow_symlinks=False):
                    self._levels[-1].folders.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=self._fd)

    def _leave(self) -> None:
        """Go back up, and remove the folder that is empty now."""
        above = os.open("..", _FOLDER, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = above
        level = self._levels.pop()
        if level.stays or self._has_moved():
            self._levels[-1].stays = True
            return
        with self._noting(level.name):
            os.rmdir(level.name, dir_fd=above)

    def _has_moved(self) -> bool:
        """Whether the open folder differs from the expected one, because folders were moved."""
        if os.path.samestat(os.fstat(self._fd), self._levels[-1].status):
            return False
        self.changed = True
        self.stayed[self._path("")] = OSError(errno.ESTALE, "it was moved")
        return True

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """A context that records what cannot be removed, and continues. Ignores missing files."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as exc:
            self.changed |= exc.errno in _CHANGES
            self.stayed[self._path(name)] = exc
            self._levels[-1].stays = True

    def _path(self, name: str) -> str:
        names = [level.name for level in self._levels[1:]]
        return os.path.join(self._top.parent, *names, name)  # noqa: PTH118


def _opened(name: str, above: int) -> tuple[int, os.stat_result]:
    """A descriptor of a folder, after giving its owner all rights, and its status."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=above)
    except PermissionError:
        _give_rights(name, above)
        fd = os.open(name, _FOLDER, dir_fd=above)
    status = os.fstat(fd)
    if status.st_mode & 0o700 != 0o700:
        with suppress(OSError):
            os.fchmod(fd, stat.S_IMODE(status.st_mode) | 0o700)
    return fd, status


def _give_rights(name: str, above: int) -> None:
    """Let the owner open a folder; through a descriptor, so that no symlink can replace it."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101
    finally:
        os.close(fd)
