"""A private folder of the local storage, which its process owns until it removes or keeps it.

Beside each folder is a lock file, with ``.lock`` after the folder's name. The owner holds a `flock`
on it, which the kernel drops however the owner's process dies. The lock file is created before the
folder and removed after it, so a folder without one has no owner, unless a cleaner of temporary
files has removed the lock file. Therefore the owner also holds a `flock` on the folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

from encamp.errors import BadLocalStorage
from encamp.storage.disk import overlay
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.removal import not_removed, remove_tree, removed_at_once
from encamp.storage.disk.tmp_cleaners import keep_off, locked
from encamp.storage.kept_folders import move_to_kept
from encamp.storage.local_storage import local_storage
from encamp.storage.process_identity import ProcessFacts, this_process

LOCK = ".lock"
TASK = "task"
LOG = "log"
PARTS = "parts"
LINKED = "linked"
RESCUE = "rescue"
"""Who rescues files of the task if its process dies, and how; see `FolderLife.note_rescue`."""
_SMALLEST = 4096
"""Bytes on the disk that an empty folder takes."""


def sandboxes(root: Path) -> Path:
    """The folder with the owned folders."""
    return root / "sandboxes"


class OwnedFolder:
    """A new private folder (0700) that this process owns until `remove` or `keep`.

    ``task`` is the folder in it for a task; beside it are files that the task must not see, such as
    its log. For one thread at a time. Raises `BadLocalStorage` or `DiskFull`.
    """

    def __init__(self, name: str) -> None:
        self.storage = self._root = local_storage()
        self._pid = os.getpid()
        self._lock = -1
        self._folder: int | None = None
        self._has_linked = False
        self.path = sandboxes(self._root) / _new_name(name)
        self.task = self.path / TASK
        self._lock_file = f"{self.path}{LOCK}"
        try:
            self._make()
        except OSError as exc:
            self.remove()
            raise disk_full(exc, self._root, _SMALLEST) or _refused(self._root, exc) from exc

    def _make(self) -> None:
        keep_off(self._root)
        try:
            self._lock = _take_new(self._lock_file)
        except FileNotFoundError:  # this is the first folder in the local storage
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock = _take_new(self._lock_file)
        os.write(self._lock, _about(this_process()))
        self.path.mkdir(mode=0o700)
        self._folder = locked(self.path, fcntl.LOCK_EX)
        self.task.mkdir(mode=0o700)

    def empty(self) -> bool:
        """Remove what a task has left, for `renew`; False if the folder cannot be used again."""
        with suppress(OSError):
            return self._is_as_made() and self._is_emptied()
        return False

    def _is_as_made(self) -> bool:
        """Whether this process still has both locks, and no other user may enter the folder."""
        if self._folder is None or self._has_linked:
            return False
        if not is_at(self._folder, self.path) or not is_at(self._lock, self._lock_file):
            return False
        return stat.S_IMODE(os.fstat(self._folder).st_mode) == 0o700

    def _is_emptied(self) -> bool:
        """Remove the task's folder; a log may stay if it is empty, and is removed otherwise."""
        folder = self._folder
        if folder is None or not removed_at_once(TASK, folder):
            return False
        left = os.listdir(folder)
        if left == [LOG] and not _is_empty_file(LOG, folder):
            os.unlink(LOG, dir_fd=folder)
        return left in ([], [LOG])

    def renew(self, name: str) -> None:
        """Make the emptied folder that of another task, like a new one. Raises OSError.

        While only the lock file has its new name, the folder's own lock shows that it has an owner.
        """
        path = self.path.parent / _new_name(name)
        lock_file = f"{path}{LOCK}"
        os.rename(self._lock_file, lock_file)  # noqa: PTH104 - once for each task
        self._lock_file = lock_file
        os.rename(self.path, path)  # noqa: PTH104
        self.path, self.task = path, path / TASK
        os.mkdir(TASK, 0o700, dir_fd=self._folder)

    def note_parts(self, parts: Iterable[Path]) -> None:
        """Record temporary files elsewhere, which are removed with the folder if its owner dies.

        Does nothing if the disk is full, because the results matter more.
        """
        with suppress(OSError):
            (self.path / PARTS).write_bytes(b"".join(os.fsencode(part) + b"\0" for part in parts))

    def note_part(self, part: Path) -> None:
        """Record another temporary file."""
        add_parts(self.path, [part])

    def note_rescue(self, note: bytes) -> None:
        """Record who rescues files of the task if the owner dies. Raises OSError."""
        (self.path / RESCUE).write_bytes(note)

    def forget_rescue(self) -> None:
        """Remove that note."""
        forget_rescue(self.path)

    def note_linked(self, entries: Iterable[Path]) -> None:
        """Record trees of the cache that the task could write to; an empty list when checked.

        If this folder is removed while trees are noted, they are checked completely before their
        next use, because the task may have written to them.
        """
        self._has_linked = True
        with suppress(OSError):
            (self.path / LINKED).write_bytes(b"\0".join(os.fsencode(entry) for entry in entries))

    def remove(self) -> None:
        """Remove the folder and give up ownership. Idempotent.

        Warns about files that cannot be removed; they stay without an owner, because the work is
        done. Does nothing in a process that was forked from the owner.
        """
        if self._lock >= 0 and self._pid == os.getpid():
            try:
                remove_folder(self.path, self._root, linked=self._has_linked)
            except OSError as exc:
                not_removed(self.path, exc)
            finally:
                self._release()

    def keep(self) -> Path:
        """Move the folder to the kept ones, and return its new path.

        Raises `DiskFull` or `BadLocalStorage`.
        """
        with named_refusals(self._root):
            doubt_linked(self.path)
            target = move_to_kept(self.path, self._root)
        self._release()
        return target

    def _release(self) -> None:
        with suppress(OSError):
            os.unlink(self._lock_file)  # noqa: PTH108 - once for each task
        for fd in (self._lock, self._folder):
            if fd is not None:
                with suppress(OSError):  # it is closed even if close(2) fails
                    os.close(fd)
        self._lock, self._folder = -1, None


def add_parts(folder: Path, parts: Iterable[Path]) -> None:
    """Record more temporary files in an owned folder, see `OwnedFolder.note_parts`."""
    with suppress(OSError), (folder / PARTS).open("ab") as notes:
        notes.write(b"".join(os.fsencode(part) + b"\0" for part in parts))


def forget_rescue(folder: Path) -> None:
    """Remove the note of `OwnedFolder.note_rescue` from an owned folder."""
    with suppress(OSError):
        (folder / RESCUE).unlink()


@contextmanager
def named_refusals(root: Path, need: int = _SMALLEST) -> Iterator[None]:
    """Raise errors of the local storage's disk as `DiskFull` or `BadLocalStorage`."""
    try:
        yield
    except OSError as exc:
        raise disk_full(exc, root, need) or _refused(root, exc) from exc


def _refused(root: Path, exc: OSError) -> BadLocalStorage:
    return BadLocalStorage(str(root), (exc.strerror or str(exc)).lower())


def remove_folder(folder: Path, root: Path, *, linked: bool = True) -> None:
    """Remove an owned folder; ``linked`` if trees may be noted in it."""
    if linked:
        doubt_linked(folder)
    remove_tree(folder, root, overlay.unmount_below(folder))


def doubt_linked(folder: Path) -> None:
    """Have the trees checked that are noted in a folder, before their next use."""
    with suppress(OSError):
        for name in filter(None, (folder / LINKED).read_bytes().split(b"\0")):
            _doubt(Path(os.fsdecode(name)))


def _doubt(entry: Path) -> None:
    """Make any process check a tree of the cache completely at its next use.

    The time of the tree's folder is among what is compared at every use.
    """
    with suppress(OSError):
        os.utime(entry / "tree")


def _new_name(name: str) -> str:
    """A new folder's name, unlike any other's."""
    return f"{_short(name)}.{token_hex(6)}"


def _short(name: str) -> str:
    """``name`` as a file name of at most 100 bytes."""
    clean = re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "sandbox"
    return clean.encode("utf-8", "replace")[:100].decode("utf-8", "ignore")


def _take_new(path: str) -> int:
    """Create the lock file and lock it; again if a cleaner removes it in the meantime."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if is_at(fd, path):
            return fd
        os.close(fd)


def _is_empty_file(name: str, folder: int) -> bool:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and not status.st_size


def is_at(fd: int, path: str | Path) -> bool:
    """Whether a descriptor is that of the file that has this name now."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@lru_cache(maxsize=1)
def _about(process: ProcessFacts) -> bytes:
    return process.as_bytes()
