"""The files that ``exclude`` leaves out of an input."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath


def entry_excluded(name: str, path: str, patterns: tuple[str, ...]) -> bool:
    """Whether an exclude pattern matches a name, or a path below a tree.

    A pattern that begins with a slash is for a path from the top of the tree on.
    """
    return any(_matches(pattern.rstrip("/"), name, path) for pattern in patterns)


def _matches(pattern: str, name: str, path: str) -> bool:
    if "/" not in pattern:
        return fnmatch(name, pattern)
    return fnmatch(f"/{path}" if pattern.startswith("/") else path, pattern)


def path_excluded(path: PurePosixPath, patterns: tuple[str, ...]) -> bool:
    """Whether a path below a tree, or a folder that contains it, is excluded."""
    ways = (path, *path.parents[:-1])
    return any(entry_excluded(way.name, str(way), patterns) for way in ways)


def all_excluded(names: Sequence[str], patterns: tuple[str, ...]) -> bool:
    """Whether all paths below a tree that match ``names``, a pattern for each part, are excluded.

    If an output's name is known only as a pattern, it counts as excluded if ``exclude`` contains
    the same pattern.
    """
    paths = ("/".join(names[:number]) for number in range(1, len(names) + 1))
    return any(
        entry_excluded(name, path, patterns) or name in patterns
        for name, path in zip(names, paths, strict=True)
    )
