"""Files that services need on every host, at the same paths below a folder there."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from encamp.cluster.events import Host
from encamp.errors import NoMatch

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster


def copy_files(
    cluster: Cluster,
    root: str | Path,
    patterns: Iterable[str],
    to: str | Path | Mapping[str, str | Path],
    *,
    hosts: Iterable[Host | str] | None = None,
    exclude: Iterable[str] = (),
) -> list[str]:
    """Copy files below a folder to every host, or some, with their folders; their paths.

    ``to`` is the folder there, or one for each host's name. A pattern like ``data/*.txt`` means the
    files of that name in ``data`` and in all folders below it; what contains one of ``exclude``
    stays. They go by the host cache, each once to a host. Blocks until all are there, so it needs a
    free slot on each host: before services take them all. Raises what a task with these inputs
    would, and `NoMatch` for a pattern that no file has.
    """
    paths = found(root, patterns, exclude)
    mirror = {str(Path(root, path)): str(Path(path).parent) for path in paths}
    names = [host.name for host in cluster.hosts()] if hosts is None else sorted(names_of(hosts))
    folders = to if isinstance(to, Mapping) else dict.fromkeys(names, to)
    tasks = [
        cluster.spawn(take_over, paths, str(folders[name]), mirror=mirror, on=name, notify=False)
        for name in names
    ]
    for task in tasks:
        task.result()
    return paths


def names_of(hosts: Iterable[Host | str]) -> set[str]:
    """Host names from what was given."""
    return {host if isinstance(host, str) else host.name for host in hosts}


def found(root: str | Path, patterns: Iterable[str], exclude: Iterable[str] = ()) -> list[str]:
    """Paths of files below a root that match a pattern, relative to it.

    A pattern's name is looked for in its folder and in all below that. What contains one of
    ``exclude`` is left out. Raises `NoMatch`.
    """
    left_out = tuple(exclude)
    paths: dict[str, None] = {}
    for pattern in patterns:
        given = PurePosixPath(pattern)
        top = Path(root) / given.parent
        matched = False
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                path = Path(folder, name).relative_to(root).as_posix()
                if fnmatch.fnmatchcase(name, given.name):
                    matched = True
                    if not any(text in path for text in left_out):
                        paths[path] = None
        if not matched:
            raise NoMatch(pattern, str(root), required_anyway=True)
    return sorted(paths)


def take_over(paths: list[str], destination: str) -> int:
    """Copy files from the task's folder, where they were mirrored, to a folder of the host."""
    for path in paths:
        target = Path(destination, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        fd, partial = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(fd, "wb") as file, Path(path).open("rb") as source:
                shutil.copyfileobj(source, file)
            shutil.copystat(path, partial)
            Path(partial).replace(target)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    return len(paths)
