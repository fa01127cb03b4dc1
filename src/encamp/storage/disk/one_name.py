"""One name for each file and folder, by whichever symlinks and bind mounts it is reached."""

from __future__ import annotations

import os
import time
from functools import lru_cache

from encamp.storage.disk import mountinfo
from encamp.storage.real_paths import is_below


def one_name(path: str | os.PathLike[str]) -> str:
    """The real path; of a folder that is mounted at several places, the first of them.

    Two paths with one such name lead to the same file. New mounts are seen after a second.
    """
    real = os.path.realpath(path)
    mounts = _mounts(int(time.monotonic()))
    return mounts.first_name(real) if mounts.several else real


class _Mounts:
    """The mounted disks and folders, by what they show."""

    def __init__(self, mounts: bytes) -> None:
        self._at: dict[str, tuple[str, str]] = {}
        """Where it is mounted → its disk, and the folder of the disk that it shows."""
        for line in mounts.split(b"\n")[:-1]:
            _, _, device, *fields, _ = line.split(b" ", 5)
            root, place = map(mountinfo.unescaped, fields)
            self._at[place] = device.decode(), root
        places: dict[str, list[tuple[str, str]]] = {}
        for place, (disk, root) in self._at.items():
            places.setdefault(disk, []).append((root, place))
        self.several = {disk: sorted(of, key=_by_root) for disk, of in places.items() if of[1:]}
        """The disks that are mounted at several places: the folders that each shows, and where."""

    def first_name(self, real: str) -> str:
        """The name of a real path in the mount that shows most of its disk."""
        place = self._place_of(real)
        disk, root = self._at.get(place, ("", ""))
        on_disk = _moved(real, place, root)
        for other_root, other in self.several.get(disk, ()):
            if is_below(on_disk, other_root):
                name = _moved(on_disk, other_root, other)
                if self._place_of(name) == other:  # it is not hidden by what is mounted over it
                    return name
        return real

    def _place_of(self, path: str) -> str:
        while path not in self._at and path != "/":
            path = os.path.dirname(path)  # noqa: PTH120 - of a string
        return path


def _by_root(mount: tuple[str, str]) -> int:
    return len(mount[0])


def _moved(path: str, folder: str, to: str) -> str:
    """A path in a folder as a path in another one."""
    inner = path[len(folder) :].lstrip("/")
    return os.path.join(to, inner) if inner else to  # noqa: PTH118 - of strings


@lru_cache(maxsize=1)
def _mounts(_second: int) -> _Mounts:
    try:
        return _as_mounts(mountinfo.read())
    except (OSError, ValueError):  # a sandbox without /proc
        return _as_mounts(b"")


_as_mounts = lru_cache(maxsize=1)(_Mounts)
"""Mounts seldom change from one second to the next."""
