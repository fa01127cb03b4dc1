"""Trees of files: their contents, their state, and copies of them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from encamp.errors import SourceChanged, UnusableInput
from encamp.storage.disk.copy_file import copy_file
from encamp.storage.disk.disk_kind import LastingNumbers
from encamp.storage.disk.holes import allocated
from encamp.storage.inputs.exclude import entry_excluded
from encamp.storage.local_storage import local_storage_path
from encamp.storage.real_paths import is_below


class Entry(msgspec.Struct, frozen=True):
    """One entry of a tree, its path relative to the tree; ``target`` is where a symlink points.

    ``outside`` is the real path that a symlink out of the tree points to; the entry counts as the
    file or folder there, if there is one.
    """

    path: str
    kind: Literal["file", "folder", "link"]
    status: os.stat_result
    target: str = ""
    outside: str = ""


@dataclass(frozen=True)
class TreeState:
    """The state of a tree, in four identifiers.

    ``content`` covers names, kinds, sizes, modification times and targets of symlinks, which are
    the same on every host and in a copy; ``identity`` also permissions, inodes and devices;
    ``version`` only those of the latter that survive a restart, and the targets of symlinks out of
    the tree. ``mtime_ns`` is the newest file's.
    """

    files: int
    size: int
    mtime_ns: int
    content: str
    identity: str
    version: str
    allocated: int
    """Bytes of a disk that it needs: fewer than ``size`` where files have holes."""
    leads_to: tuple[str, ...] = field(default=(), compare=False)
    """The targets of symlinks that lead out of it, including those that do not exist yet."""


class TreeDigest:
    """Hashes the entries of a tree one by one, in the order of `walk`."""

    def __init__(self) -> None:
        self.files = self.size = self.newest = self.allocated = 0
        self._content = hashlib.blake2b(digest_size=16)
        self._rest = hashlib.blake2b(digest_size=16)
        self._version = hashlib.blake2b(digest_size=16)
        self._numbers = LastingNumbers()
        self._leads_to: list[str] = []

    def take_version(self, place: str, entry: Entry) -> None:
        """Hash the lasting properties of an entry at ``place`` that its copies do not have."""
        if entry.kind == "file":
            self._version.update(self._numbers.of(place, entry.status).encode())
        if entry.outside:
            self._version.update(os.fsencode(entry.outside))
            self._leads_to.append(entry.outside)
        self._version.update(b"\0")

    def take(self, entry: Entry) -> None:
        status = entry.status
        self.take_facts(entry.path, entry.kind, status.st_size, status.st_mtime_ns, entry.target)
        if entry.kind == "file":
            self.allocated += allocated(status)
            rest = f"{status.st_mode} {status.st_ino} {status.st_dev}\0"
            self._rest.update(rest.encode())

    def take_facts(self, path: str, kind: str, size: int, mtime_ns: int, target: str) -> None:
        facts = f"{path}\0{kind}\0{target}"
        if kind == "file":
            facts += f"\0{size}\0{mtime_ns}"
            self.files += 1
            self.size += size
            self.newest = max(self.newest, mtime_ns)
        self._content.update(facts.encode("utf-8", "surrogateescape") + b"\0\0")

    def state(self) -> TreeState:
        content = self._content.hexdigest()
        identity = content + self._rest.hexdigest()
        version = content + self._version.hexdigest()
        return TreeState(
            self.files,
            self.size,
            self.newest,
            content,
            identity,
            version,
            self.allocated,
            tuple(self._leads_to),
        )


def state_of_entries(
    entries: Iterable[tuple[str, str, int, int]], target: Callable[[str], str]
) -> TreeState:
    """The state of a tree from path, kind, size and mtime_ns of its entries."""
    digest = TreeDigest()
    for path, kind, size, mtime_ns in entries:
        digest.take_facts(path, kind, size, mtime_ns, target(path) if kind == "link" else "")
    return digest.state()


def tree_state(tree: Path, exclude: tuple[str, ...] = (), *, is_copy: bool = False) -> TreeState:
    """The present state of a tree; raises `UnusableInput` as `walk` does."""
    digest = TreeDigest()
    for entry in walk(tree, exclude, is_copy=is_copy):
        digest.take(entry)
        digest.take_version(f"{tree}/{entry.path}", entry)
    return digest.state()


def copy_tree(
    source: Path,
    target: Path,
    exclude: tuple[str, ...],
    *,
    readonly: bool,
    is_copy: bool = False,
) -> TreeState:
    """Copy a tree to a new folder, as `walk` lists it; returns the copied state.

    ``readonly`` removes the write permission of files (folders keep it). Raises the errors of
    `walk` and `copy_file`.
    """
    digest = TreeDigest()
    target.mkdir(mode=0o700)
    origin, to = str(source), str(target)
    for entry in walk(source, exclude, is_copy=is_copy):
        digest.take(entry)
        place = f"{to}/{entry.path}"
        status = entry.status
        if entry.kind == "folder":
            os.mkdir(place, 0o700)  # noqa: PTH102
        elif entry.kind == "link":
            os.symlink(entry.target, place)
        else:
            mode = status.st_mode & 0o555 | 0o400 if readonly else status.st_mode & 0o777 | 0o600
            expected = (status.st_size, status.st_mtime_ns)
            copy_file(f"{origin}/{entry.path}", place, expected, mode=mode)
    return digest.state()


def link_tree(source: Path, target: Path) -> int:
    """Create a folder like ``source`` with hard links to its files; returns how many files.

    Raises OSError, including if the disk supports no (more) links.
    """
    target.mkdir(mode=0o700)
    files, pending = 0, ["."]
    while pending:
        inner = pending.pop()
        reader = os.open(source / inner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            writer = os.open(target / inner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                folders, linked = _link_all(reader, writer)
            finally:
                os.close(writer)
        finally:
            os.close(reader)
        files += linked
        pending.extend(f"{inner}/{name}" for name in folders)
    return files


def _link_all(reader: int, writer: int) -> tuple[list[str], int]:
    """Link what is in one open folder to another; returns the folders made there, and a count."""
    folders, files = [], 0
    with os.scandir(reader) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(name, 0o700, dir_fd=writer)
                folders.append(name)
            else:  # a symlink is linked as itself
                files += entry.is_file(follow_symlinks=False)
                os.link(name, name, src_dir_fd=reader, dst_dir_fd=writer, follow_symlinks=False)
    return folders, files


def walk(tree: Path, exclude: tuple[str, ...] = (), *, is_copy: bool = False) -> Iterator[Entry]:
    """All entries of a tree, folders before their contents, in a fixed order.

    A symlink that leads out of the tree counts as the file or the whole folder there: a copy of the
    tree must be the same on every host, and writing to the copy must not change anything elsewhere.
    One that leads to something in the tree stays a symlink, like one that leads nowhere, to a
    device, or to a folder that contains it. In a tree that ``is_copy`` of one that was walked, all
    symlinks stay symlinks. The local storage is left out if it is in the tree. Raises
    `UnusableInput`, or `SourceChanged` if the tree is seen to change.
    """
    own = _status_of(local_storage_path())
    real = os.path.realpath(tree)
    pending = [("", _Part("", real, (real,)))]
    while pending:
        inner, part = pending.pop()
        folders = []
        for found in _listed(tree, inner):
            path = f"{inner}/{found.name}" if inner else found.name
            if exclude and entry_excluded(found.name, path, exclude):
                continue
            entry = _entry(found, path, None if is_copy else part)
            if entry is None:
                continue  # it was removed since the folder was listed
            if entry.kind == "folder":
                if own is not None and os.path.samestat(entry.status, own):
                    continue
                folders.append((path, part.beyond(found.path, entry) if entry.outside else part))
            yield entry
        pending.extend(reversed(folders))


class _Part(msgspec.Struct, frozen=True):
    """A tree, or a folder outside it that a symlink in it points to."""

    path: str
    real: str
    inside: tuple[str, ...]
    """Real paths of the folders that the part and the symlinks which led to it are in."""

    def holds(self, path: str, target: str, place: str) -> bool:
        """Whether a symlink points to something in this part, wherever that is copied to."""
        if target.startswith("/"):
            return False
        inner = os.path.relpath(path, self.path or ".")
        lexical = os.path.normpath(os.path.join(os.path.dirname(inner), target))  # noqa: PTH118, PTH120
        return lexical.split("/")[0] != ".." and is_below(os.path.realpath(place), self.real)

    def encloses(self, place: str, folder: str) -> bool:
        """Whether a symlink at ``place`` would lead back into a folder that contains it."""
        return any(is_below(one, folder) for one in (*self.inside, _real_parent(place)))

    def beyond(self, place: str, entry: Entry) -> _Part:
        """The part that a symlink at ``place`` points to."""
        inside = (*self.inside, _real_parent(place), entry.outside)
        return _Part(entry.path, entry.outside, inside)


def _real_parent(place: str) -> str:
    return os.path.realpath(os.path.dirname(place))  # noqa: PTH120


def _status_of(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _listed(tree: Path, inner: str) -> list[os.DirEntry[str]]:
    folder = f"{tree}/{inner}" if inner else str(tree)
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=_raw_name)
    except OSError as exc:
        if inner and isinstance(exc, FileNotFoundError | NotADirectoryError):
            raise SourceChanged(folder) from exc  # it was a folder a moment ago
        raise UnusableInput(folder, why_unusable(exc)) from exc


def _raw_name(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def why_unusable(exc: OSError) -> str:
    """Why an input cannot be used."""
    if isinstance(exc, FileNotFoundError):
        return "it does not exist (a broken symlink?)"
    return (exc.strerror or str(exc)).lower()


def _entry(found: os.DirEntry[str], path: str, part: _Part | None) -> Entry | None:
    try:
        return _entry_as_it_is(found, path, part)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # a symlink no more
            raise SourceChanged(found.path) from exc
        raise UnusableInput(found.path, why_unusable(exc)) from exc


def _entry_as_it_is(found: os.DirEntry[str], path: str, part: _Part | None) -> Entry:
    status = found.stat(follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return Entry(path, "file", status)
    if kind == stat.S_IFDIR:
        return Entry(path, "folder", status)
    if kind == stat.S_IFLNK:
        target = os.readlink(found.path)
        link = Entry(path, "link", status, target)
        if part is None or part.holds(path, target, found.path):
            return link
        return _outside(found.path, link, part)
    why = f"it is {special(status)}; leave it out with exclude={found.name!r}"
    raise UnusableInput(found.path, why)


def _outside(place: str, link: Entry, part: _Part) -> Entry:
    """The file or folder as which a symlink out of a tree counts."""
    real = os.path.realpath(place)
    try:
        status = os.stat(real)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return replace(link, outside=real)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return link
        raise
    if stat.S_ISREG(status.st_mode):
        return Entry(link.path, "file", status, outside=real)
    if stat.S_ISDIR(status.st_mode) and not part.encloses(place, real):
        return Entry(link.path, "folder", status, outside=real)
    return replace(link, outside=real)


def special(status: os.stat_result) -> str:
    """The kind of something that is neither file, folder nor symlink."""
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(status.st_mode)), "a device")
