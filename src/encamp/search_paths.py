"""Folders that no other user can write to, and search paths made only of these.

On another host, a folder of the same name may belong to another user.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

SEARCH_PATHS = ("PYTHONPATH", "LD_LIBRARY_PATH")
"""Environment variables with folders from which programs load code."""
_MOST_LINKS = 40
"""The kernel's limit, see path_resolution(7)."""


@cache
def only_ours(folder: str) -> bool:
    """Whether only this user and root can create, replace or write the folder.

    A group that only this user is in counts as this user. If the folder does not exist yet, the
    folders above it are checked. Symbolic links on the way are checked, too.
    """
    real = os.path.realpath(folder)
    try:
        return all(_is_ours(os.lstat(path), last=path == real) for path in _on_the_way(folder))
    except OSError:
        return False


def _on_the_way(folder: str) -> Iterator[str]:
    """The folders and links through which the kernel goes to open a folder, if they exist.

    Raises OSError for too many links.
    """
    done, links = "/", 0
    pending = list(reversed(Path(folder).parts[1:]))
    yield done
    while pending:
        here = os.path.normpath(os.path.join(done, pending.pop()))  # noqa: PTH118
        if not os.path.lexists(here):
            return
        yield here
        if not os.path.islink(here):  # noqa: PTH114
            done = here
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), folder)
        target = os.readlink(here)
        pending += reversed(target.strip("/").split("/"))
        done = "/" if target.startswith("/") else done


def _is_ours(status: os.stat_result, *, last: bool) -> bool:
    mode = status.st_mode
    if status.st_uid not in (os.geteuid(), 0):
        return False
    if stat.S_ISLNK(mode):
        return True
    if mode & stat.S_ISVTX and not last:
        return True  # others can add files there, but not replace files of this user
    if mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        return False
    return not mode & stat.S_IWOTH


@cache
def _is_own_group(gid: int) -> bool:
    """Whether a group is root's, or the user private group of this user."""
    if gid == 0:
        return True
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return (
        gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    )


def take_search_paths(variables: Mapping[str, str]) -> list[str]:
    """Add the program's search paths to those of this host; returns the folders left out.

    Folders come after the host's own, and only if they are `only_ours`. Those of ``PYTHONPATH`` are
    also added to ``sys.path``.
    """
    left_out = []
    for name in SEARCH_PATHS:
        known = _folders(os.environ.get(name, ""))
        new = [folder for folder in _folders(variables.get(name, "")) if folder not in known]
        ours = [folder for folder in new if only_ours(folder)]
        left_out += [folder for folder in new if folder not in ours and Path(folder).exists()]
        if ours:
            os.environ[name] = os.pathsep.join((*known, *ours))
        if name == "PYTHONPATH":
            sys.path += [folder for folder in ours if folder not in sys.path]
    return left_out


def whole_search_path(path: str) -> str:
    """A search path with absolute folders, so that it is valid in any current folder."""
    return os.pathsep.join(map(os.path.abspath, _folders(path)))


def _folders(path: str) -> list[str]:
    return [folder for folder in path.split(os.pathsep) if folder]
