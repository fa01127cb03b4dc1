"""Opening the path to a destination without following links, or using folders, of other users.

A folder is opened first, then checked, and then used through its descriptor, so that nobody can
replace it in between. Otherwise anybody who can write to a destination could replace a folder in it
by a symlink, and redirect results.

Trusted are this user and root, for root also the owner of the folder that was named, and in a
shared job every user, in folders that are not writable for everybody. Links of trusted users are
followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec.structs import replace

from encamp.errors import BadDestination, printable
from encamp.storage.disk.shown_owner import name_of_user, uid_of_new_files
from encamp.storage.urls import folder_name

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NOT_SEEN = (FileNotFoundError, NotADirectoryError, PermissionError)
_MOST_UP = 100
"""How many folders a single relative path goes up, because paths have a limited length."""
_MOST_LINKS = 40
"""Maximum number of symlinks in a path, as in the kernel; see path_resolution(7)."""


class Trust(msgspec.Struct, frozen=True):
    """The users that are trusted in the folders of a path."""

    depth: int = 0
    """How many folders at the path's end are below the one that the user has named."""
    shared: bool = False
    """Whether the members of a group trust each other."""
    user: int = 0
    """The owner of the folder that the user has named, whom root trusts, too."""

    def below(self, folders: int) -> Trust:
        """The trust for a path with this many more folders (fewer if negative)."""
        return replace(self, depth=self.depth + folders) if folders else self


NAMED = Trust()


def trust_in(named: Path | str, depth: int = 0, *, shared: bool = False) -> Trust:
    """The trust in a folder that is ``depth`` folders below one that the user has named."""
    for there in (Path(named), *Path(named).parents):
        with suppress(OSError):
            return Trust(depth, shared, there.stat().st_uid)
    return Trust(depth, shared)


@contextmanager
def opened(folder: Path, trust: Trust = NAMED, *, make: bool = False) -> Iterator[int]:
    """`open_folder` during a block."""
    fd = open_folder(str(folder), trust, make=make)
    try:
        yield fd
    finally:
        os.close(fd)


def named(base: Path, to: str | os.PathLike[str], *, shared: bool = False) -> Path:
    """The real path of a destination ``to``, which is relative to ``base``.

    Folders in an absolute ``to`` may be anybody's. Raises `BadDestination` if a part of a relative
    one is a link of another user.
    """
    folder = folder_name(to)
    if folder.startswith("/"):
        return Path(os.path.realpath(folder))
    top = os.path.realpath(base)
    whole = os.path.join(top, folder)  # noqa: PTH118
    return Path(_resolved(whole, trust_in(top, shared=shared))[0])


def below(top: Path, inner: str, *, shared: bool = False) -> tuple[Path, Trust]:
    """The real path of a folder below one that the user has named, and the users trusted there.

    The existing part of the path is checked. Raises the errors of `opened`, even if the check is
    impossible.
    """
    real_top = os.path.realpath(top)
    given = os.path.normpath(os.path.join(real_top, inner))  # noqa: PTH118
    trust = trust_in(real_top, shared=shared)
    real, plain = _resolved(given, trust)
    names = Path(given).relative_to(real_top).parts if Path(given).is_relative_to(real_top) else ()
    trust = trust.below(min(plain, len(names)))
    there, part = Path(real), trust
    while part.depth and not os.path.lexists(there):
        there, part = there.parent, part.below(-1)
    try:
        if part.depth and there.is_dir():
            os.close(open_folder(str(there), part))
    except OSError as exc:
        raise BadDestination(str(real), (exc.strerror or str(exc)).lower()) from exc
    return Path(real), trust


def open_folder(folder: str, trust: Trust = NAMED, *, make: bool = False) -> int:
    """A descriptor of a folder, for paths relative to it; with ``make`` it is created if missing.

    Raises `BadDestination` if another user has put a link or a folder into the path, or OSError.
    """
    try:
        fd = os.open(folder, _PLACE)
    except FileNotFoundError:
        if not make:
            raise
        return _made(folder, trust)
    try:
        if _name(fd) == folder:
            if trust.depth:
                _check_owners(fd, folder, trust)
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return _by_links(folder, trust)


def _by_links(folder: str, trust: Trust) -> int:
    """Open a folder with links in its path."""
    real, plain = _resolved(folder, trust)
    fd = os.open(real, _PLACE | os.O_NOFOLLOW)
    try:
        if _name(fd) != real:
            raise BadDestination(folder, "a folder of the path was replaced just now")
        _check_owners(fd, folder, replace(trust, depth=min(trust.depth, plain)))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _made(folder: str, trust: Trust) -> int:
    """Make a folder, and those above it that are missing; there may be thousands."""
    above, missing = _nearest(folder, trust)
    while missing:
        name = missing.pop()
        try:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=above)
            fd = os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
        above = fd
        try:
            if trust.depth > len(missing):
                _check_owners(fd, _name(fd), replace(trust, depth=1))
        except BaseException:
            os.close(fd)
            raise
    return above


def _nearest(folder: str, trust: Trust) -> tuple[int, list[str]]:
    """A descriptor of the nearest folder that exists; the names below it, the last one first."""
    missing: list[str] = []
    while True:
        folder, name = os.path.split(folder)
        missing.append(name)
        with suppress(FileNotFoundError):
            depth = max(0, trust.depth - len(missing))
            return open_folder(folder, replace(trust, depth=depth)), missing


def _name(fd: int) -> str:
    """The real path of a descriptor, see proc(5)."""
    return os.readlink(f"/proc/self/fd/{fd}")


@lru_cache(maxsize=64)
def _ways_up(depth: int) -> list[str]:
    """The relative paths from a folder to itself and to ``depth`` folders above it."""
    return ["/".join([".", *[".."] * number]) for number in range(depth + 1)]


def _check_owners(fd: int, folder: str, trust: Trust) -> None:
    """Raise `BadDestination` if a folder below the named one belongs to another user."""
    if not trust.depth:
        return
    ways = _ways_up(min(trust.depth, _MOST_UP))
    found = [os.stat(way, dir_fd=fd) for way in ways]
    for number, (status, above) in enumerate(pairwise(found)):
        if _is_trusted(status, above, trust):
            continue
        with _at(ways[number], fd) as place:
            if status.st_uid != uid_of_new_files(place):
                where = (Path(folder), *Path(folder).parents)[number]
                raise BadDestination(folder, _whose("folder", where, status))
    if trust.depth > _MOST_UP:
        with _at(ways[-1], fd) as place:
            _check_owners(place, _name(place), trust.below(-_MOST_UP))


@contextmanager
def _at(way: str, fd: int) -> Iterator[int]:
    place = os.open(way, _PLACE, dir_fd=fd)
    try:
        yield place
    finally:
        os.close(place)


def _resolved(path: str, trust: Trust) -> tuple[str, int]:
    """The real path of a path, and how many of its own names come after the last link.

    Names that do not exist, or cannot be examined, do not count as links. Raises `BadDestination`
    for a link of another user.
    """
    done, plain, links = "/", 0, 0
    pending = [(name, 1) for name in reversed(Path(path).parts[1:])]
    while pending:
        name, own = pending.pop()
        if name == "..":
            done = os.path.dirname(done)  # noqa: PTH120
            continue
        target = _target(name, done, trust)
        if target is None:
            done, plain = os.path.join(done, name), plain + own  # noqa: PTH118
            continue
        links += 1
        if links > _MOST_LINKS:
            raise BadDestination(path, "the path has too many symlinks")
        pending += [(name, 0) for name in reversed(Path(target).parts) if name != "/"]
        done, plain = "/" if target.startswith("/") else done, 0
    return done, plain


def _target(name: str, folder: str, trust: Trust) -> str | None:
    """The target of a link in a folder; None if it is not a link."""
    try:
        above = os.open(folder, _PLACE)
    except _NOT_SEEN:
        return None
    try:
        link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except _NOT_SEEN:
        os.close(above)
        return None
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            return None
        trusted = _is_trusted(status, os.fstat(above), trust)
        if not trusted and status.st_uid != uid_of_new_files(above):
            path = Path(folder, name)
            raise BadDestination(str(path), _whose("symlink", path, status))
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)
        os.close(above)


def _is_trusted(status: os.stat_result, above: os.stat_result, trust: Trust) -> bool:
    user = os.geteuid()
    if status.st_uid in (user, 0) or (user == 0 and status.st_uid == trust.user):
        return True
    return trust.shared and not above.st_mode & stat.S_IWOTH


def _whose(what: str, path: Path, status: os.stat_result) -> str:
    return (
        f"{printable(path)} is a {what} of the user {name_of_user(status.st_uid)}, who could "
        "redirect results (if you trust it, give its absolute path, or share the job)"
    )
