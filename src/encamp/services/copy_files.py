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
from encamp.cluster.spawn_options import names
from encamp.errors import BadJob, NoMatch, NoSuchHost, WrongType
from encamp.services.argument_checks import texts

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster


def copy_files(
    cluster: Cluster,
    root: str | Path,
    patterns: str | Iterable[str],
    to: str | Path | Mapping[str, str | Path],
    *,
    hosts: Host | str | Iterable[Host | str] | None = None,
    exclude: str | Iterable[str] = (),
) -> list[str]:
    """Copy files below a folder to all hosts, or some, with their subfolders; returns their paths.

    ``to`` is the folder there, or a mapping of host names to folders. A pattern like ``data/*.txt``
    matches files of that name in ``data`` and in all folders below it; paths that contain one of
    ``exclude`` are left out. The files go through the host cache, once to each host. Blocks until
    all are copied, and needs a free slot on each host: call it before services occupy all slots.
    Raises the errors of a task with these inputs, `NoMatch` for a pattern that matches no file, and
    `NoSuchHost`.
    """
    folders = _folders(cluster, to, hosts)
    paths = found(_path("root", root), patterns, exclude)
    mirror = {str(Path(root, path)): str(Path(path).parent) for path in paths}
    tasks = [
        cluster.spawn(take_over, paths, folder, mirror=mirror, on=name, notify=False)
        for name, folder in folders.items()
    ]
    for task in tasks:
        task.result()
    return paths


def _folders(
    cluster: Cluster,
    to: str | Path | Mapping[str, str | Path],
    hosts: Host | str | Iterable[Host | str] | None,
) -> dict[str, str]:
    """The folder on each host."""
    known = tuple(host.name for host in cluster.hosts())
    wanted = names(hosts)
    for name in wanted or ():
        if name not in known:
            raise NoSuchHost(name, known)
    folders = {}
    for name in known if wanted is None else sorted(wanted):
        if isinstance(to, Mapping) and name not in to:
            raise BadJob("to", f"names no folder for {name}")
        folders[name] = str(_path("to", to[name] if isinstance(to, Mapping) else to))
    return folders


def _path(what: str, given: str | Path) -> Path:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise WrongType(what, f"must be the path of a folder, not {given!r}")
    return Path(given)


def found(
    root: str | Path, patterns: str | Iterable[str], exclude: str | Iterable[str] = ()
) -> list[str]:
    """Paths of files below a root that match a pattern, relative to it.

    A pattern's name is looked for in its folder and in all below it. Paths that contain one of
    ``exclude`` are left out. Raises `NoMatch`.
    """
    left_out = texts("exclude", exclude)
    paths: dict[str, None] = {}
    for pattern in texts("patterns", patterns):
        given = PurePosixPath(pattern)
        if given.is_absolute() or ".." in given.parts:
            raise BadJob("patterns", f"must stay below {root}, not {pattern!r}")
        top = Path(root) / given.parent
        matched = False
        for folder, _, files in os.walk(top):
            for name in sorted(files):
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
