"""Where folders are: this host's local storage, and the shared roots of the hosts."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path, PurePosixPath

import msgspec

from encamp.errors import BadJob, BadLocalStorage, UnusableInput

LOCAL = "PARALLEL_LOCAL_STORAGE"
MIRRORED = "PARALLEL_MIRRORED_STORAGE"


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
        raise BadLocalStorage(base, _not_absolute(base))
    return real_folder(base) / f"encamp-{_user()}"


def real_folder(path: str) -> Path:
    """The real path of a folder; cached until the name leads to another folder."""
    try:
        now = os.stat(path)  # noqa: PTH116 - often called
        if (known := _real.get(path)) and os.path.samestat(now, os.lstat(known)):
            return known
    except OSError:
        return Path(os.path.realpath(path))
    _real[path] = real = Path(os.path.realpath(path))
    return real


_real: dict[str, Path] = {}


def _not_absolute(path: str) -> str:
    """The reason for refusing a path: a relative one would depend on each task's current folder."""
    return "no such user" if path.startswith("~") else "it is not an absolute path"


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


def current_folder() -> Path:
    """This process's current folder; raises `BadJob` if it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as exc:
        why = "it has been removed; change to another one (cd) and try again"
        raise BadJob("the current folder", why) from exc


def in_local_storage(path: Path) -> bool:
    """Whether ``path`` is in this user's local storage."""
    return is_below(os.path.realpath(path), os.path.realpath(local_storage_path()))


class SharedPath(msgspec.Struct, frozen=True):
    """A path in a form for all hosts: the number of its shared root, and the rest."""

    root: int
    rest: str


Portable = SharedPath | str
"""A path as it is sent: relative to its shared root, or unchanged if it is in none."""


def shared_roots() -> list[Path]:
    """The folders named in PARALLEL_MIRRORED_STORAGE, in order; the home folder by default.

    Symlinks are resolved. Raises `BadJob` for a name that is not an absolute path.
    """
    given = os.environ.get(MIRRORED)
    if not given:
        home = os.path.expanduser("~")
        return [real_folder(home)] if home.startswith("/") else []
    return [_shared_root(name) for name in given.split(os.pathsep) if name]


def _shared_root(name: str) -> Path:
    path = os.path.expanduser(name)
    if not path.startswith("/"):
        raise BadJob(f"{MIRRORED} names {name!r}", _not_absolute(path))
    return real_folder(path)


def to_abstract(path: Path | str, roots: list[Path] | None = None) -> SharedPath | None:
    """``path`` as a `SharedPath`, or None if it is in no shared root; ``roots`` are `shared_roots`.

    If several roots contain it, the longest counts. Symlinks are resolved on both sides, and whole
    components are compared, so ``/home2/x`` is not in ``/home``.
    """
    return _in_root(os.path.realpath(path), shared_roots() if roots is None else roots)


def _in_root(real: str, roots: list[Path]) -> SharedPath | None:
    found = None
    for number, root in enumerate(map(str, roots)):
        if is_below(real, root) and (found is None or len(root) > len(str(roots[found]))):
            found = number
    if found is None:
        return None
    return SharedPath(found, real[len(str(roots[found])) :].lstrip("/") or ".")


def is_below(real: str, root: str) -> bool:
    """Whether a real path is a folder or in it."""
    return real == root or real.startswith(root if root.endswith("/") else f"{root}/")


def to_actual(shared: SharedPath) -> Path:
    """The path of ``shared`` on this host; raises `UnusableInput` if this host has fewer roots."""
    roots = shared_roots()
    if shared.root >= len(roots):
        why = f"shared root {shared.root + 1} is needed, but {MIRRORED} here names {len(roots)}"
        raise UnusableInput(shared.rest, why)
    return roots[shared.root] / shared.rest


def portable(path: Path | str) -> Portable:
    """``path`` in the form that is sent to other hosts, with symlinks resolved."""
    real = os.path.realpath(path)
    return _in_root(real, shared_roots()) or real


def portable_name(path: Path) -> Portable:
    """`portable` without resolving symlinks, whatever is at the path by now."""
    return _in_root(str(path), shared_roots()) or str(path)


def with_name(path: Portable, name: str) -> Portable:
    """The path of another name in the folder of ``path``."""
    if isinstance(path, SharedPath):
        return SharedPath(path.root, str(PurePosixPath(path.rest).with_name(name)))
    return f"{path.rpartition('/')[0]}/{name}"


def below(folder: Portable, name: str) -> Portable:
    """The path of ``name`` in a folder."""
    if isinstance(folder, SharedPath):
        rest = "" if folder.rest == "." else folder.rest
        return SharedPath(folder.root, os.path.join(rest, name))  # noqa: PTH118
    return os.path.join(folder, name)  # noqa: PTH118


def local(path: Portable) -> Path:
    """The path on this host that was sent as ``path``."""
    return to_actual(path) if isinstance(path, SharedPath) else Path(path)
