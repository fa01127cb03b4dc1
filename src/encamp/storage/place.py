"""From plan to folder: inputs are put where the task will look for them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from encamp.errors import SourceChanged, TargetConflict, UnsafeTarget, UnusableInput
from encamp.storage.cache import HostCache
from encamp.storage.copy import copy_file
from encamp.storage.disk import disk_full
from encamp.storage.mirror import Item, walk
from encamp.storage.roots import local


@dataclass
class Placed:
    """What placing a plan cost, and which files are shared with other tasks."""

    files: int = 0
    bytes: int = 0
    shared: dict[str, os.stat_result] = field(default_factory=dict)
    """Linked file in the folder → its status when it was linked."""


def place(
    items: Iterable[Item], folder: Path, placed: Placed, cache: HostCache | None = None
) -> None:
    """Put every item of a plan into ``folder`` and add what it cost to ``placed``.

    With a ``cache`` the files come out of it and are linked, read-only; without, they are copied.
    Raises `TargetConflict`, `UnsafeTarget`, `UnusableInput`, `SourceChanged` or `DiskFull`.
    """
    placer = _Placer(folder, placed, cache)
    for item in items:
        source = local(item.source)
        try:
            if item.kind == "file":
                placer.file(source, item.target, (item.size, item.mtime_ns))
            else:
                placer.tree(source, item)
        except FileExistsError:
            raise TargetConflict(item.target, str(source), "another input") from None
        except OSError as exc:
            raise _named(exc, source, folder, item.size) from exc


def _named(exc: OSError, source: Path, folder: Path, need: int) -> Exception:
    if full := disk_full(exc, folder, need):
        return full
    if isinstance(exc, FileNotFoundError):
        return SourceChanged(str(source))
    return UnusableInput(str(exc.filename or source), (exc.strerror or str(exc)).lower())


class _Placer:
    def __init__(self, folder: Path, placed: Placed, cache: HostCache | None) -> None:
        self.folder = folder
        self.placed = placed
        self.cache = cache
        self._safe = {PurePosixPath()}

    def tree(self, source: Path, item: Item) -> None:
        self._folder(PurePosixPath(item.target))
        for entry in walk(source, item.exclude):
            target = f"{item.target}/{entry.path}"
            status = entry.status
            if entry.kind == "folder":
                self._folder(PurePosixPath(target))
            elif entry.kind == "link":
                os.symlink(os.readlink(source / entry.path), self.folder / target)
            else:
                self.file(source / entry.path, target, (status.st_size, status.st_mtime_ns))

    def file(self, source: Path, target: str, expected: tuple[int, int]) -> None:
        path = PurePosixPath(target)
        self._folder(path.parent)
        place = self.folder / path
        if self.cache is not None:
            self.cache.link(source, place, expected)
            self.placed.shared[target] = place.lstat()
        else:
            copy_file(source, place, expected)
            self.placed.files += 1
            self.placed.bytes += expected[0]

    def _folder(self, path: PurePosixPath) -> None:
        """Make a folder and those above it; refuse to go through a symlink."""
        if path in self._safe:
            return
        self._folder(path.parent)
        place = self.folder / path
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            if not stat.S_ISDIR(place.lstat().st_mode):
                if place.is_symlink():
                    raise UnsafeTarget(str(path), "goes through a symlink") from None
                raise
        self._safe.add(path)


def damaged(folder: Path, placed: Placed) -> list[str]:
    """The shared files that were written to since they were placed."""
    return [name for name, before in placed.shared.items() if _changed(folder / name, before)]


def _changed(path: Path, before: os.stat_result) -> bool:
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    same_file = (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev)
    return same_file and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
