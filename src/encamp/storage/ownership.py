"""Folders of the local storage and their owners; removing the folders of dead owners.

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
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

from encamp.errors import BadLocalStorage, printable
from encamp.storage.cache.integrity import doubt
from encamp.storage.cache.tmp_cleaners import keep_off, locked
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.removal import remove_tree, removed_at_once
from encamp.storage.inputs import overlay
from encamp.storage.local_storage import local_storage, local_storage_path
from encamp.storage.outputs.temporary_names import discard_noted
from encamp.storage.process_identity import (
    MOST_FACTS,
    ProcessFacts,
    boot_id,
    facts_in,
    this_process,
)

LOCK = ".lock"
TASK = "task"
LOG = "log"
PARTS = "parts"
LINKED = "linked"
_SMALLEST = 4096
"""Bytes on the disk that an empty folder takes."""


def sandboxes(root: Path) -> Path:
    """The folder with the owned folders."""
    return root / "sandboxes"


def kept(root: Path) -> Path:
    """The folder with folders that were kept for inspection; they have no owner."""
    return root / "kept"


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
        if not _is_at(self._folder, self.path) or not _is_at(self._lock, self._lock_file):
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
        with suppress(OSError), (self.path / PARTS).open("ab") as notes:
            notes.write(os.fsencode(part) + b"\0")

    def note_linked(self, entries: Iterable[Path]) -> None:
        """Record trees of the cache that the task could write to; none when they were checked.

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
                _remove(self.path, self._root, linked=self._has_linked)
            except OSError as exc:
                _warn_of(self.path, exc)
            finally:
                self._release()

    def keep(self) -> Path:
        """Move the folder to the kept ones, and return its new path.

        Raises `DiskFull` or `BadLocalStorage`.
        """
        with named_refusals(self._root):
            target = _keep(self.path, self._root)
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


@contextmanager
def named_refusals(root: Path, need: int = _SMALLEST) -> Iterator[None]:
    """Raise errors of the local storage's disk as `DiskFull` or `BadLocalStorage`."""
    try:
        yield
    except OSError as exc:
        raise disk_full(exc, root, need) or _refused(root, exc) from exc


def _refused(root: Path, exc: OSError) -> BadLocalStorage:
    return BadLocalStorage(str(root), (exc.strerror or str(exc)).lower())


def _remove(folder: Path, root: Path, *, linked: bool = True) -> None:
    """Remove a folder of the local storage; ``linked`` if trees may be noted in it."""
    if linked:
        _doubt_linked(folder)
    remove_tree(folder, root, overlay.unmount_below(folder))


def _keep(folder: Path, root: Path) -> Path:
    _doubt_linked(folder)
    overlay.settle(folder)
    parent = kept(root)
    parent.mkdir(mode=0o700, exist_ok=True)
    return folder.rename(parent / folder.name)


def _doubt_linked(folder: Path) -> None:
    with suppress(OSError):
        for name in filter(None, (folder / LINKED).read_bytes().split(b"\0")):
            doubt(Path(os.fsdecode(name)))


def keep_dead(folder: Path) -> Path | None:
    """`OwnedFolder.keep` for the folder of a dead owner; None if it is missing or owned."""
    lock = _lock_of(folder)
    with _taken_over(lock) as dead:
        if not dead or not folder.exists():
            return None
        _remove_parts(folder)
        target = _keep(folder, local_storage())
        lock.unlink(missing_ok=True)
        return target


def _new_name(name: str) -> str:
    """A new folder's name, unlike any other's."""
    return f"{_short(name)}.{token_hex(6)}"


def _short(name: str) -> str:
    """``name`` as a file name of at most 100 bytes."""
    clean = re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "sandbox"
    return clean.encode("utf-8", "replace")[:100].decode("utf-8", "ignore")


def _lock_of(folder: Path) -> Path:
    return Path(f"{folder}{LOCK}")


def _take_new(path: str) -> int:
    """Create the lock file and lock it; again if a cleaner removes it in the meantime."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_at(fd, path):
            return fd
        os.close(fd)


def _is_empty_file(name: str, folder: int) -> bool:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and not status.st_size


def _is_at(fd: int, path: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@lru_cache(maxsize=1)
def _about(process: ProcessFacts) -> bytes:
    return process.as_bytes()


@contextmanager
def _taken_over(lock: Path) -> Iterator[bool]:
    """Hold the lock of a dead owner; False if the owner lives or the folder was cleaned already."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _locked_now(fd) and _is_at(fd, lock) and _is_dead(os.read(fd, MOST_FACTS))
    finally:
        os.close(fd)


def _is_dead(written: bytes) -> bool:
    """Whether the owner of a free lock is dead.

    On this kernel a free lock means so, whatever process ids are visible here. But a living process
    may have closed its descriptor by mistake, and locks of another machine may be invisible here.
    """
    owner = facts_in(written)
    if owner is None or owner.known_dead:  # None: killed before it could write
        return True
    return owner.boot == boot_id() and not owner.near


def _locked_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reclaim(
    storage: Path | None = None,
    *,
    dry_run: bool = False,
    stayed: dict[Path, OSError] | None = None,
) -> list[Path]:
    """Remove the folders of dead owners and return them; those of living owners stay.

    ``storage`` is the `local_storage`, if the caller has it already.
    Several processes may do this at once. A folder that cannot be removed is noted in ``stayed``,
    or warned about, and does not stop anything. Raises `BadLocalStorage`.
    """
    parent = sandboxes(storage or local_storage_path())
    if not os.path.lexists(parent):
        return []
    root = storage or local_storage()  # nothing is removed but in this user's own folder
    with named_refusals(root):
        names = set(os.listdir(parent))
    folders = {name.removesuffix(LOCK) for name in names}
    return [
        parent / name
        for name in sorted(folders)
        if _reclaimed(parent / name, stayed, dry_run=dry_run) and name in names
    ]


def _reclaimed(folder: Path, stayed: dict[Path, OSError] | None, *, dry_run: bool) -> bool:
    try:
        return reclaim_folder(folder, dry_run=dry_run)
    except OSError as exc:
        _tell_of(folder, exc, stayed)
        return False


def _tell_of(leftover: Path, exc: OSError, stayed: dict[Path, OSError] | None) -> None:
    if stayed is None:
        _warn_of(leftover, exc)
    else:
        stayed[leftover] = exc


def _warn_of(leftover: Path, exc: OSError) -> None:
    warnings.warn(f"cannot remove the leftover {printable(leftover)}: {exc}", stacklevel=4)


def reclaim_folder(folder: Path, *, dry_run: bool = False) -> bool:
    """Remove ``folder`` if its owner is dead; returns whether that was so."""
    lock = _lock_of(folder)
    if not lock.exists():
        # A lock file is created before its folder and removed after it, so without one the folder
        # has no owner, unless the folder has just been removed. A cleaner may have removed only the
        # lock file; but then the owner still holds the lock of the folder itself.
        with _nobodys(folder) as dead:
            if dead and not dry_run and not lock.exists():
                _remove(folder, folder.parent.parent)
            return dead
    with _taken_over(lock) as dead:
        if dead and not dry_run:
            _remove_parts(folder)
            _remove(folder, folder.parent.parent)
            lock.unlink(missing_ok=True)
        return dead


@contextmanager
def _nobodys(folder: Path) -> Iterator[bool]:
    """Hold a folder without a lock file; False if it is missing or another process holds it."""
    try:
        fd = locked(folder, fcntl.LOCK_EX)
    except (FileNotFoundError, NotADirectoryError):
        yield os.path.lexists(folder)  # a file or symlink has no owner
        return
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def _remove_parts(folder: Path) -> None:
    """Remove the temporary files that a dead owner has noted."""
    with suppress(OSError):
        for name in (folder / PARTS).read_bytes().split(b"\0"):
            discard_noted(Path(os.fsdecode(name)))


def clean_kept(*, dry_run: bool = False, stayed: dict[Path, OSError] | None = None) -> list[Path]:
    """Remove the folders that were kept for inspection, and return them.

    Folders that cannot be removed are noted in ``stayed``, or warned about.
    """
    parent = kept(local_storage_path())
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    if dry_run or not folders:
        return folders
    root, gone = local_storage(), []
    for folder in folders:
        try:
            remove_tree(folder, root, overlay.unmount_below(folder))
            gone.append(folder)
        except OSError as exc:
            _tell_of(folder, exc, stayed)
    with suppress(OSError):
        parent.rmdir()
    return gone
