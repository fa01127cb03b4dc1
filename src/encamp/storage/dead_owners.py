"""Removing the folders of dead owners; those of living owners stay.

`encamp.storage.owned_folder` explains the locks by which an owner is known to live.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from encamp.storage.disk.removal import not_removed
from encamp.storage.disk.temporary_names import discard_noted
from encamp.storage.disk.tmp_cleaners import locked
from encamp.storage.kept_folders import move_to_kept
from encamp.storage.local_storage import local_storage, local_storage_path
from encamp.storage.owned_folder import (
    LOCK,
    PARTS,
    RESCUE,
    doubt_linked,
    is_at,
    named_refusals,
    remove_folder,
    sandboxes,
)
from encamp.storage.process_identity import MOST_FACTS, boot_id, facts_in


def reclaim(
    storage: Path | None = None,
    *,
    dry_run: bool = False,
    stayed: dict[Path, OSError] | None = None,
) -> list[Path]:
    """Remove the folders of dead owners and return them; those of living owners stay.

    So do those from which a living process will rescue files, see `FolderLife.note_rescue`.
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
        not_removed(folder, exc, stayed)
        return False


def reclaim_folder(folder: Path, *, dry_run: bool = False) -> bool:
    """Remove ``folder`` if its owner is dead and nobody will rescue files from it.

    Returns whether that was so.
    """
    lock = _lock_of(folder)
    if not lock.exists():
        # A lock file is created before its folder and removed after it, so without one the folder
        # has no owner, unless the folder has just been removed. A cleaner may have removed only the
        # lock file; but then the owner still holds the lock of the folder itself.
        with _hold_unowned(folder) as free:
            dead = free and not _awaits_rescue(folder)
            if dead and not dry_run and not lock.exists():
                remove_folder(folder, folder.parent.parent)
            return dead
    with _taken_over(lock) as free:
        dead = free and not _awaits_rescue(folder)
        if dead and not dry_run:
            _remove_parts(folder)
            remove_folder(folder, folder.parent.parent)
            lock.unlink(missing_ok=True)
        return dead


def _awaits_rescue(folder: Path) -> bool:
    """Whether a living process that is visible here rescues files from the folder."""
    try:
        with (folder / RESCUE).open("rb") as note:
            supervisor = facts_in(note.readline(MOST_FACTS))
    except OSError:
        return False
    return supervisor is not None and supervisor.near and not supervisor.known_dead


@contextmanager
def _hold_unowned(folder: Path) -> Iterator[bool]:
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


def keep_dead(folder: Path) -> Path | None:
    """`OwnedFolder.keep` for the folder of a dead owner; None if it is missing or owned."""
    lock = _lock_of(folder)
    with _taken_over(lock) as dead:
        if not dead or not folder.exists():
            return None
        _remove_parts(folder)
        doubt_linked(folder)
        target = move_to_kept(folder, local_storage())
        lock.unlink(missing_ok=True)
        return target


@contextmanager
def _taken_over(lock: Path) -> Iterator[bool]:
    """Hold the lock of a dead owner; False if the owner lives or the folder was cleaned already."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _locked_now(fd) and is_at(fd, lock) and _is_dead(os.read(fd, MOST_FACTS))
    finally:
        os.close(fd)


def _is_dead(written: bytes) -> bool:
    """Whether the owner of a free lock is dead.

    On this kernel a free lock means that it is, whatever process ids are visible here. But a living
    process may have closed its descriptor by mistake, and locks of another machine may be invisible
    here.
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


def _lock_of(folder: Path) -> Path:
    return Path(f"{folder}{LOCK}")
