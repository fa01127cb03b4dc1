"""The inputs among the files of a task's folder: their sources, and which are unchanged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from encamp.errors import UnusableInput
from encamp.storage.cache.cache import HostCache
from encamp.storage.inputs.exclude import path_excluded
from encamp.storage.inputs.mirror import Item
from encamp.storage.shared_folders import local

_CHUNK = 1 << 20


class InputSources:
    """Knows the source of each input in a task's folder."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._files: dict[str, Item] = {}
        self._trees: dict[str, Item] = {}
        for item in items:
            (self._trees if item.kind == "tree" else self._files)[item.target] = item

    def _item_of(self, path: str) -> tuple[Item, str] | None:
        """The input at a path, and the rest of the path inside of it."""
        if (item := self._files.get(path)) is not None:
            return item, ""
        above = path
        while above := above.rpartition("/")[0]:
            if (item := self._trees.get(above)) is not None:
                inner = path[len(above) :]
                was_put_there = not path_excluded(PurePosixPath(inner[1:]), item.exclude)
                return (item, inner) if was_put_there else None
        return None

    def is_from(self, path: str, final: Path) -> bool:
        """Whether a path in the folder is an input with the source ``final``, or in one.

        This host may see neither of them.
        """
        with suppress(OSError, UnusableInput):
            source = self._source(path)
            return bool(source) and (source == str(final) or final.samefile(source))
        return False

    def _source(self, path: str) -> str:
        item, inner = self._item_of(path) or (None, "")
        return f"{local(item.source)}{inner}" if item is not None and item.url is None else ""


class UnchangedInputs(InputSources):
    """Compares the contents of ``folder`` with the inputs that were put there.

    Times are not enough: a task may set them, or touch files that it does not change.
    """

    def __init__(self, folder: Path, items: Iterable[Item], cache: HostCache) -> None:
        super().__init__(items)
        self._folder, self._cache = folder, cache

    def __call__(self, path: str) -> bool:
        """Whether a path in the folder is an unchanged input, or in one."""
        found = self._item_of(path)
        return found is not None and self._is_still(path, *found)

    def _is_still(self, path: str, item: Item, inner: str) -> bool:
        """Compare with the entry in the cache, or with the source if it still matches the plan."""
        place = f"{self._folder}/{path}"
        with suppress(OSError):
            return _same(place, f"{self._cache.contents_of(item)}{inner}")
        if item.url is not None:
            return False
        with suppress(OSError, UnusableInput):
            source = f"{local(item.source)}{inner}"
            found, now = Path(source).stat(), Path(place).lstat()
            if inner or (found.st_size, found.st_mtime_ns) == (item.size, item.mtime_ns):
                return _same(place, source)
            return (now.st_size, now.st_mtime_ns) == (item.size, item.mtime_ns)
        return False


def _same(place: str, original: str) -> bool:
    """Whether two are equal: links to the same, files with the same bytes, or folders."""
    now, before = Path(place).lstat(), Path(original).lstat()
    if stat.S_ISLNK(now.st_mode) and stat.S_ISLNK(before.st_mode):
        return Path(place).readlink() == Path(original).readlink()
    if stat.S_ISDIR(now.st_mode) and stat.S_ISDIR(before.st_mode):
        return True
    if stat.S_ISLNK(now.st_mode):
        return False
    if stat.S_ISLNK(before.st_mode):
        before = Path(original).stat()  # a file with a different name was mirrored as this file
    if not (stat.S_ISREG(now.st_mode) and stat.S_ISREG(before.st_mode)):
        return False
    if now.st_size != before.st_size:
        return False
    if (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino):
        return True  # a hard link to the original, which is known to be unchanged
    return _same_bytes(place, original)


def _same_bytes(first: str, second: str) -> bool:
    with Path(first).open("rb", buffering=0) as one, Path(second).open("rb", buffering=0) as other:
        while block := one.read(_CHUNK):
            if block != _exactly(other.fileno(), len(block)):
                return False
        return not other.read(1)


def _exactly(fd: int, size: int) -> bytes:
    parts = []
    while size and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
