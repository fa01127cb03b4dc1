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
    """Copy files below a folder to all hosts, or some, with their subfolders; returns their paths.

    ``to`` is the folder there, or a mapping of host names to folders. A pattern like ``data/*.txt``
    matches files of that name in ``data`` and in all folders below it; paths that contain one of
    ``exclude`` are left out. The files go through the host cache, once to each host. Blocks until
    all are copied, and needs a free slot on each host: call it before services occupy all slots.
    Raises the errors of a task with these inputs, and `NoMatch` for a pattern that matches no file.
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
    """The names of hosts."""
    return {host if isinstance(host, str) else host.name for host in hosts}


def found(root: str | Path, patterns: Iterable[str], exclude: Iterable[str] = ()) -> list[str]:
    """Paths of files below a root that match a pattern, relative to it.

    A pattern's name is looked for in its folder and in all below it. Paths that contain one of
    ``exclude`` are left out. Raises `NoMatch`.
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
