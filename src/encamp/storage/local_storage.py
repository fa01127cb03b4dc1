"""The local storage: this user's folder on this host's own disk."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from encamp.errors import BadLocalStorage
from encamp.storage.real_paths import is_below, real_folder, why_not_absolute

LOCAL = "PARALLEL_LOCAL_STORAGE"


def local_storage() -> Path:
    """This user's folder in the local storage, created (0700) if it is missing.

    It is ``encamp-<user>`` in the folder that PARALLEL_LOCAL_STORAGE names, or in the folder for
    temporary files. If others can read it, its permissions are changed. Raises `BadLocalStorage` if
    it is a file or symlink, belongs to another user, or cannot be created or written to.
    """
    path = local_storage_path()
    if _is_checked(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except FileExistsError as exc:
        raise BadLocalStorage(exc.filename, "it is a file, not a folder") from None
    except NotADirectoryError:
        raise BadLocalStorage(str(path), "a part of it is a file, not a folder") from None
    except OSError as exc:
        raise BadLocalStorage(str(path), (exc.strerror or str(exc)).lower()) from exc
    _check_private(path, found)
    _checked[path] = path.lstat(), os.geteuid()
    return path


_checked: dict[Path, tuple[os.stat_result, int]] = {}
"""Local storages that were checked, with their states then and the user."""


def _is_checked(path: Path) -> bool:
    """Whether it is the folder that was checked before, and still private."""
    before = _checked.get(path)
    try:
        now = os.lstat(path) if before else None
    except OSError:
        return False
    if before is None or now is None:
        return False
    same = os.path.samestat(now, before[0]) and now.st_mode == before[0].st_mode
    return same and (now.st_uid, before[1]) == (before[0].st_uid, os.geteuid())


def local_storage_path() -> Path:
    """The path of `local_storage`; creates nothing.

    Raises `BadLocalStorage` if PARALLEL_LOCAL_STORAGE is not an absolute path.
    """
    if not (given := os.environ.get(LOCAL)):
        import tempfile  # not loaded in every slot, so that slots start faster

        given = tempfile.gettempdir()
    base = os.path.expanduser(given)
    if not base.startswith("/"):
        raise BadLocalStorage(base, why_not_absolute(base))
    return real_folder(base) / f"encamp-{_user()}"


def _user() -> str:
    asked = ("LOGNAME", "USER", "LNAME", "USERNAME")
    return _user_named(tuple(map(os.environ.get, asked)), os.getuid())


@lru_cache(maxsize=8)
def _user_named(_names: tuple[str | None, ...], _uid: int) -> str:
    """Everything that `getpass.getuser` depends on, to cache it: it reads the list of users."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise BadLocalStorage(str(path), "it is not a folder (a symlink is not allowed)")
    if found.st_uid != os.geteuid():
        raise BadLocalStorage(str(path), "it belongs to another user")
    if found.st_mode & 0o077:
        try:
            path.chmod(0o700)
        except OSError as exc:
            raise BadLocalStorage(str(path), "others may read it") from exc
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadLocalStorage(str(path), "it cannot be written to")


def in_local_storage(path: Path) -> bool:
    """Whether ``path`` is in this user's local storage."""
    return is_below(os.path.realpath(path), os.path.realpath(local_storage_path()))
