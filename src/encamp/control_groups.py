"""The limits that control groups set for this process, cgroups(7): cores, memory, processes.

Containers and batch systems use them. The limits of a group and of all groups above it apply.
``root`` is the root folder of the file system, for tests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")


def processes_left(root: Path = ROOT) -> int | None:
    """How many more processes and threads this process's groups may have; None without a limit."""
    left = []
    for group in _groups(root, "pids"):
        with suppress(OSError, ValueError):  # "max" is not a number
            most = int(_read(group / "pids.max"))
            left.append(max(0, most - int(_read(group / "pids.current"))))
    return min(left, default=None)


def core_limits(root: Path) -> Iterator[float]:
    """For each group of this process that has a limit, the number of cores it may use."""
    for group in _groups(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if (both := group / "cpu.max").exists():
                quota, period = _read(both).split()
            else:
                quota, period = (
                    _read(group / "cpu.cfs_quota_us"),
                    _read(group / "cpu.cfs_period_us"),
                )
            if quota != "max" and int(quota) > 0:  # -1: no limit
                yield int(quota) / int(period)


def memory_limits(root: Path) -> Iterator[int]:
    """For each group of this process that has a limit, the bytes of memory it may use."""
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                yield int(_read(group / name))  # "max" is not a number


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's groups, as far as they are visible here."""
    paths = _paths(root, controller)
    for version, inside, mount in _mounts(root, controller):
        path = paths.get(version)
        if path is None:
            continue
        below = os.path.relpath(path, inside)
        if below.startswith(".."):  # the mounted group does not contain that of this process
            below = "."
        group = root / mount.lstrip("/") / below
        top = root / mount.lstrip("/")
        yield group
        while group != top and top in group.parents:
            group = group.parent
            yield group


def _paths(root: Path, controller: str) -> dict[int, str]:
    """This process's group by version of cgroups, from ``/proc/self/cgroup``."""
    paths: dict[int, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            paths[2] = path
        elif controller in names.split(","):
            paths[1] = path
    return paths


def _mounts(root: Path, controller: str) -> Iterator[tuple[int, str, str]]:
    """Version, group and mount point of each mounted hierarchy of cgroups, see proc(5)."""
    for line in _lines(root / "proc/self/mountinfo"):
        words, _, kind = line.partition(" - ")
        about, given = words.split(), kind.split()
        if len(about) < 5 or len(given) < 3:
            continue
        inside, mount = map(_plain, about[3:5])
        if given[0] == "cgroup2":
            yield 2, inside, mount
        elif given[0] == "cgroup" and controller in given[2].split(","):
            yield 1, inside, mount


def _plain(word: str) -> str:
    """A word of ``mountinfo``, where spaces are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), word)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
