"""Where Python looks for modules, for processes on hosts that have shared folders elsewhere.

On another host a folder of the same name may be another user's. There only those are taken in which
nobody else can put modules, and they come after the places that are known there.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from encamp.errors import EncampError, printable
from encamp.storage.process import boot_id
from encamp.storage.roots import SharedPath, to_abstract, to_actual

_SEP = "\0"


def import_path() -> list[str]:
    """This process's `sys.path` in words that `extend_import_path` understands on other hosts."""
    folders = [_everywhere(os.path.abspath(folder or ".")) for folder in sys.path]
    return [f"{_SEP}{boot_id()}", *folders]


def is_far(words: Iterable[str]) -> bool:
    """Whether `import_path` was asked on another host, as far as can be known."""
    mark = next((word for word in words if word.startswith(_SEP)), None)
    return mark is not None and (mark == _SEP or mark != f"{_SEP}{boot_id()}")


def extend_import_path(words: Iterable[str]) -> list[str]:
    """Have modules looked for where another process does; returns the folders that are left out.

    On the same host they come before the places that are known here; see above for other hosts.
    A folder that is not here by its name is taken from the shared root that holds it there.
    """
    words = list(words)
    if not words:
        return []
    folders = [_here(word) for word in words if not word.startswith(_SEP)]
    new = [folder for folder in folders if folder not in sys.path]
    if not is_far(words):
        sys.path[:0] = new
        return []
    ours = [folder for folder in new if only_ours(folder)]
    sys.path += ours
    return [folder for folder in new if folder not in ours and Path(folder).exists()]


def left_out_words(folders: list[str], host: str) -> str:
    """What to say of folders that `extend_import_path` has left out; empty if there are none."""
    if not folders:
        return ""
    names = ", ".join(map(printable, folders))
    return (
        f"on {printable(host)}, modules are not looked for in {names}, where others can write; "
        "install them there, or keep them in a folder that only you can write to"
    )


@cache
def only_ours(folder: str) -> bool:
    """Whether nobody but this user and root can put anything at this place.

    A group counts as this user if it is this user's alone. Of a folder that is not there yet, what
    is above it counts.
    """
    real = Path(os.path.realpath(folder))
    places = [path for path in (real, *real.parents) if os.path.lexists(path)]
    return all(_is_ours(path.lstat(), last=path == real) for path in places)


def _is_ours(status: os.stat_result, *, last: bool) -> bool:
    mode = status.st_mode
    if status.st_uid not in (os.geteuid(), 0):
        return False
    if mode & stat.S_ISVTX and not last:
        return True  # others can put things there, but not replace what is ours
    if mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        return False
    return not mode & stat.S_IWOTH


@cache
def _is_own_group(gid: int) -> bool:
    """Whether a group is root's, or this user's alone, as many systems give each user one."""
    if gid == 0:
        return True
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return (
        gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    )


def _everywhere(folder: str) -> str:
    shared = to_abstract(folder)
    return folder if shared is None else _SEP.join((folder, str(shared.root), shared.rest))


@cache
def _here(words: str) -> str:
    folder, *shared = words.split(_SEP)
    if shared and not Path(folder).exists():
        try:
            return str(to_actual(SharedPath(int(shared[0]), shared[1])))
        except EncampError:
            return folder
    return folder
