"""Whether an entry of the cache is still as it was fetched.

An entry is checked whenever it is used, and again when a task that saw it through an overlay has
ended, because files can vanish from a disk silently: programs that clean temporary files remove
single files that were not read for days, and a crash loses what had not reached the disk.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from encamp.errors import EncampError
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.tree import TreeDigest, walk

_ALWAYS = 1000
"""Trees of up to this many files are checked file by file at every use."""
_PAUSE = 50
"""A larger tree is checked again only after this many times the duration of its last check."""
_KEPT = 100
"""The number of large trees whose last check this process remembers."""


class _CheckedTree(msgspec.Struct, frozen=True):
    """A large tree that was found complete: until when this is trusted, and its folders then."""

    until: float
    folders: tuple[tuple[str, tuple[int, int]], ...]


_looks: dict[Path, _CheckedTree] = {}


def is_intact(entry: Path, item: Item, *, written: bool = False) -> bool:
    """Whether an entry exists, complete and unchanged.

    All sizes and times of a tree are compared. Between two such checks of a tree of more than 1,000
    files, only its folders are, which shows whether something was removed, added or replaced,
    unless its files may have been ``written`` to.
    """
    if item.kind == "file":
        return status_if_intact(entry, item) is not None
    return _intact_tree(entry, item, believed=not written)


def status_if_intact(entry: Path, item: Item) -> os.stat_result | None:
    """The status of a file's entry; None if it is missing or was changed."""
    try:
        found = entry.lstat()
    except OSError:
        return None
    closed = not (item.readonly and found.st_mode & 0o222)
    same = (found.st_size, found.st_mtime_ns) == (item.size, item.mtime_ns)
    return found if closed and same else None


def _intact_tree(entry: Path, item: Item, *, believed: bool) -> bool:
    look = _looks.get(entry) if believed else None
    if look is not None and time.monotonic() < look.until and _same_folders(look):
        return True
    try:
        return _looked_through(entry, item)
    except (OSError, EncampError):
        return False


def _looked_through(entry: Path, item: Item) -> bool:
    start, digest, folders = time.monotonic(), TreeDigest(), [str(entry / "tree")]
    before = [_facts(folders[0])]
    for found in walk(entry / "tree", is_copy=True):
        digest.take(found)
        if found.kind == "folder":
            folders.append(f"{folders[0]}/{found.path}")
            before.append((found.status.st_mtime_ns, found.status.st_ino))
    _looks.pop(entry, None)
    if digest.state().content != item.content:
        return False
    if item.files > _ALWAYS:
        now = time.monotonic()
        _looks[entry] = _CheckedTree(
            now + _PAUSE * (now - start), tuple(zip(folders, before, strict=True))
        )
        while len(_looks) > _KEPT:
            del _looks[next(iter(_looks))]
    return True


def _same_folders(look: _CheckedTree) -> bool:
    try:
        return all(_facts(folder) == facts for folder, facts in look.folders)
    except OSError:
        return False


def _facts(folder: str) -> tuple[int, int]:
    status = os.lstat(folder)
    return status.st_mtime_ns, status.st_ino


def files_there(entry: Path) -> int:
    """How many files a tree of the cache has now."""
    try:
        return sum(found.kind == "file" for found in walk(entry / "tree", is_copy=True))
    except (OSError, EncampError):
        return 0
