"""The files in a job's folder that encamp trusts: its own, never those of other users.

Other users may be able to write to the folder.

All names are opened relative to the folder's descriptor, links are not followed, and an opened file
must be a regular file of a trusted owner. New files have random names until they are complete.

Trusted are this user and root and, where root works in another user's folder, the owner of the
folder above. On disks that show wrong owners (a squashed root, FUSE, CIFS), encamp creates a file
to see which owner the disk shows for it. In a shared job, files may belong to anybody in its group.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from secrets import token_hex
from typing import IO

from encamp.errors import NotOurs
from encamp.storage.disk.path_to_destination import NAMED, open_folder
from encamp.storage.disk.shown_owner import name_of_user, uid_of_new_files
from encamp.storage.disk.unsupported_requests import flushed
from encamp.storage.disk.write_all import write_all

_GUARDED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_REMEDY = "remove it, use a different destination, or share the job (--shared)"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
MOST = 1 << 32
"""Maximum number of bytes to read from one file."""


@dataclass(frozen=True)
class TrustedFolder:
    """A folder of a job, and whether it is shared with a group."""

    path: Path
    shared: bool = False
    anybody: bool = False
    """Whether any user may own it, since its contents are only displayed."""
    is_true: bool = False
    """Whether the path is resolved already, so that no links in it are followed."""
    _held: list[TrustedFiles] = field(default_factory=list, compare=False, repr=False)
    """The folder's files, while no other folder of this name is accepted."""

    @contextmanager
    def opened(self, *, make: bool = False) -> Iterator[TrustedFiles]:
        """The folder's files, during a block; with ``make`` a missing folder is created.

        Raises `NotOurs`, `BadDestination`, or OSError from the disk.
        """
        if self._held and self._held[0].is_at(self.path):
            yield self._held[0]
            return
        files = self._files(make=make)
        try:
            if self._held and not files.made:
                why = "a different folder has replaced it since the run began"
                raise NotOurs(
                    str(self.path), f"{why}; put the original folder back and run the job again"
                )
            if self._held:  # the one that was held has been removed
                self._held[0], files = files, self._held[0]
            yield self._held[0] if self._held else files
        finally:
            files.close()

    @contextmanager
    def held(self) -> Iterator[TrustedFiles]:
        """The folder's files; creates it if missing. No other can get its name in between."""
        self._held.append(self._files(make=True))
        try:
            yield self._held[0]
        finally:
            self._held.pop().close()

    def check(self) -> None:
        """Raise `NotOurs` if the name now belongs to a folder other than the one that is held.

        A missing folder is not an error here; writing into it fails.
        """
        with suppress(FileNotFoundError), self.opened():
            pass

    def _files(self, *, make: bool) -> TrustedFiles:
        folder = self._above(make=make)
        try:
            return TrustedFiles(
                self.path, folder, shared=self.shared, anybody=self.anybody, make=make
            )
        finally:
            os.close(folder)

    def _above(self, *, make: bool) -> int:
        """A descriptor of its parent."""
        folder = self.path.parent
        if self.is_true:
            return open_folder(str(folder), NAMED, make=make)
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class TrustedFiles:
    """The files of one folder; for one thread.

    ``folder`` is a descriptor of its parent; ``owners`` are trusted, by default this user and root,
    and for root also the parent's owner.
    """

    def __init__(
        self,
        path: Path,
        folder: int,
        *,
        shared: bool = False,
        anybody: bool = False,
        make: bool = False,
        owners: set[int] | None = None,
    ) -> None:
        self.path, self._shared, self._anybody = path, shared, anybody
        self._mode = 0o664 if shared else 0o644
        """The permissions of new files."""
        self._owners = {os.geteuid(), 0} if owners is None else set(owners)
        if owners is None and os.geteuid() == 0:
            self._owners.add(os.fstat(folder).st_uid)
        self.made = False
        """Whether the folder was created by this object."""
        self._fd = self._opened(folder, make=make)
        try:
            self._status = os.fstat(self._fd)
            self._check_folder(self._status)
        except BaseException:
            self.close()
            raise

    def is_at(self, path: Path) -> bool:
        """Whether the folder has this name now."""
        try:
            return os.path.samestat(os.lstat(path), self._status)
        except OSError:
            return False

    def close(self) -> None:
        """Close the folder. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def tighten(self) -> None:
        """Allow only the owner, or all of its group, to write to the folder."""
        status = os.fstat(self._fd)
        mode = stat.S_IMODE(status.st_mode)
        wanted = (mode | stat.S_IWGRP) & ~stat.S_IWOTH if self._shared else mode & ~_OTHERS
        if wanted != mode and status.st_uid == os.geteuid():
            with suppress(OSError):  # a disk that keeps no permissions
                os.fchmod(self._fd, wanted)

    def check_writers(self) -> None:
        """Raise `NotOurs` for a folder to which others could write before `tighten`.

        Another user who may rename files beside it may have given it this name.
        """
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        if self._shared or self._anybody or not mode & _OTHERS:
            return
        if _keeps_modes(self._fd, mode):
            why = "other users may write to it, and could have put a journal there"
            remedy = "chmod go-w it if its content is yours, or share the job"
            raise NotOurs(str(self.path), f"{why}; {remedy} (--shared)")

    def below(self, name: str, *, make: bool = False) -> TrustedFiles:
        """The files of a subfolder."""
        return TrustedFiles(
            self.path / name, self._fd, shared=self._shared, make=make, owners=self._owners
        )

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """A descriptor of a file; raises `NotOurs`, or OSError from the disk."""
        try:
            fd = os.open(name, flags | _GUARDED, mode, dir_fd=self._fd)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                why = f"it is not a regular file; {_REMEDY}"
                raise NotOurs(str(self.path / name), why) from exc
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotOurs(str(self.path / name), f"it is not a regular file; {_REMEDY}")
            if not self.trusts(status):
                raise NotOurs(str(self.path / name), _whose(status))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def trusts(self, status: os.stat_result) -> bool:
        """Whether the owner of something in this folder is trusted."""
        return self._shared or self._anybody or status.st_uid in self._owners

    def read(self, name: str, most: int = MOST) -> bytes:
        """The bytes of a file; raises as `open` does, and `NotOurs` for more than ``most``."""
        fd = self.open(name)
        with os.fdopen(fd, "rb") as file:
            data = file.read(min(most, os.fstat(fd).st_size) + 1)
            if len(data) > os.fstat(fd).st_size:
                data += file.read(most + 1 - len(data))
        if len(data) > most:
            raise NotOurs(str(self.path / name), f"it has more than {most} bytes; {_REMEDY}")
        return data

    def make(self, name: str, data: bytes) -> os.stat_result:
        """Create a file; raises FileExistsError if the name exists."""
        fd = os.open(name, os.O_WRONLY | _NEW, self._mode, dir_fd=self._fd)
        try:
            write_all(fd, data)
            return os.fstat(fd)
        finally:
            os.close(fd)

    @contextmanager
    def replacing(self, name: str, *, flush: bool = True) -> Iterator[IO[bytes]]:
        """Write a file that gets its name when it is complete and flushed.

        It replaces what has the name already, a link itself and not its target. Without ``flush`` a
        power cut may leave it empty: for files that matter for some seconds only.
        """
        temporary = f".{name}.{token_hex(8)}.tmp"
        fd = os.open(temporary, os.O_RDWR | _NEW, self._mode, dir_fd=self._fd)
        try:
            with os.fdopen(fd, "w+b") as file:
                if self._shared:
                    with suppress(OSError):
                        os.fchmod(fd, self._mode)  # whatever the umask is
                yield file
                file.flush()
                if flush:
                    flushed(fd, self.path / name)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self.remove(temporary)
            raise

    def remove(self, name: str) -> None:
        """Remove a file, or a link itself, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def rename(self, name: str, to: str) -> None:
        """Rename a file."""
        os.rename(name, to, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(os.listdir(self._fd))

    def status(self, name: str) -> os.stat_result:
        """The status of a name itself."""
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    def discard_temporary(self) -> None:
        """Remove temporary files of killed processes."""
        for name in self.names():
            if _TEMPORARY.fullmatch(name):
                with suppress(OSError):
                    self.remove(name)

    def _opened(self, above: int, *, make: bool) -> int:
        name = self.path.name
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o775 if self._shared else 0o755, dir_fd=above)
                self.made = True
        try:
            return os.open(name, _FOLDER, dir_fd=above)
        except PermissionError as exc:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
            if status.st_uid in self._owners:
                raise
            raise NotOurs(str(self.path), _whose(status)) from exc
        except NotADirectoryError as exc:
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
            what = "it is a symlink" if is_link else "it is a file, not a folder"
            raise NotOurs(str(self.path), f"{what}; {_REMEDY}") from exc

    def _check_folder(self, status: os.stat_result) -> None:
        if self._anybody or status.st_uid in self._owners:
            return
        if self._shared:
            if status.st_gid not in {os.getegid(), *os.getgroups()} and os.geteuid() != 0:
                why = f"it belongs to the group {status.st_gid}, to which this user does not belong"
                raise NotOurs(str(self.path), why)
            if status.st_mode & stat.S_IWOTH:
                why = "everybody may write to it, not only its group; chmod o-w it"
                raise NotOurs(str(self.path), why)
        elif status.st_uid != uid_of_new_files(self._fd):
            raise NotOurs(str(self.path), _whose(status))
        self._owners.add(status.st_uid)


def _keeps_modes(fd: int, mode: int) -> bool:
    """Whether a folder's disk keeps permissions: some show all folders as everybody's."""
    try:
        os.fchmod(fd, mode & ~_OTHERS)
        kept = not os.fstat(fd).st_mode & _OTHERS
        os.fchmod(fd, mode)
    except OSError:
        return False
    return kept


def open_regular(
    path: Path | str, *, follow: bool = True, folder: int | None = None
) -> BufferedReader:
    """Open a regular file of any owner for reading; never waits for other kinds of files.

    It may be relative to ``folder``, a descriptor. Raises OSError, including for other kinds of
    files.
    """
    flags = _GUARDED & ~os.O_NOFOLLOW if follow else _GUARDED
    fd = os.open(path, os.O_RDONLY | flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(fd, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """The first bytes of a regular file of any owner, but not through a symlink; raises OSError."""
    with open_regular(path, follow=False) as file:
        return file.read(most)


def _whose(status: os.stat_result) -> str:
    return f"it belongs to the user {name_of_user(status.st_uid)}; {_REMEDY}"
