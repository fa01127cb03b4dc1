"""One name for each file and folder, by whichever symlinks and bind mounts it is reached."""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache

_OCTAL = re.compile(r"\\([0-7]{3})")
"""How blanks and the like are written in mountinfo, see proc(5)."""


def one_name(path: str | os.PathLike[str]) -> str:
    """The real path; of a folder that is mounted at several places, the first of them.

    Two paths with one such name lead to the same file. New mounts are seen after a second.
    """
    real = os.path.realpath(path)
    mounts = _mounts(int(time.monotonic()))
    return mounts.first_name(real) if mounts.several else real


class _Mounts:
    """The mounted disks and folders, by what they show."""

    def __init__(self, mountinfo: bytes) -> None:
        self._at: dict[str, tuple[str, str]] = {}
        """Where it is mounted → its disk, and the folder of the disk that it shows."""
        for line in os.fsdecode(mountinfo).rstrip("\n").split("\n") if mountinfo else ():
            _, _, disk, root, place, _ = line.split(" ", 5)
            if "\\" in line:
                root, place = _unescaped(root), _unescaped(place)
            self._at[place] = disk, root
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
            if _is_in(on_disk, other_root):
                name = _moved(on_disk, other_root, other)
                if self._place_of(name) == other:  # it is not hidden by what is mounted over it
                    return name
        return real

    def _place_of(self, path: str) -> str:
        while path not in self._at and path != "/":
            path = os.path.dirname(path)  # noqa: PTH120 - of text
        return path


def _by_root(mount: tuple[str, str]) -> int:
    return len(mount[0])


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder == "/" else f"{folder}/")


def _moved(path: str, folder: str, to: str) -> str:
    """A path in a folder as a path in another one."""
    inner = path[len(folder) :].lstrip("/")
    return os.path.join(to, inner) if inner else to  # noqa: PTH118 - of text


@lru_cache(maxsize=1)
def _mounts(_second: int) -> _Mounts:
    try:
        with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123
            return _as_mounts(file.read())
    except (OSError, ValueError):  # a sandbox without /proc
        return _as_mounts(b"")


_as_mounts = lru_cache(maxsize=1)(_Mounts)
"""Mounts seldom change from one second to the next."""


def _unescaped(path: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), path)
