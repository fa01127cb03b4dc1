"""Which files `copy_files` of the ISD grid means, and how they come to each host."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

EXCLUDE = ("cns/", "svn")


def found(root: str | Path, patterns: Iterable[str], exclude: Iterable[str] = EXCLUDE) -> list[str]:
    """Paths of files below a root that match a pattern, relative to it.

    A pattern's folder must be there; its name is looked for in that folder and in all below it.
    What contains one of ``exclude`` is left out.
    """
    left_out = tuple(exclude)
    paths: dict[str, None] = {}
    for pattern in patterns:
        given = PurePosixPath(pattern)
        top = Path(root) / given.parent
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                path = Path(folder, name).relative_to(root).as_posix()
                if fnmatch.fnmatchcase(name, given.name) and not any(
                    text in path for text in left_out
                ):
                    paths[path] = None
    return sorted(paths)


def take_over(paths: list[str], destination: str) -> int:
    """Copy files from the task's folder, where they were mirrored, to a folder of the host."""
    for path in paths:
        target = Path(destination, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy2(path, partial)
        partial.replace(target)
    return len(paths)
