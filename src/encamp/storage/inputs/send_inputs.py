"""Sending files to hosts that do not share a disk, in chunks, through any channel.

    one host                                      the other
    Sender(allowed paths) ◄── asks ── Channel ◄── receive_file, receive_tree

A channel only carries questions and answers; the layers above provide it. The sender sends only the
files that it was ordered to. Every chunk is sent with its digest, and with the state of the file
when the chunk was read, so that a file that changes meanwhile is never received half old, half new.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import msgspec

from encamp.errors import ShippingFailed, SourceChanged, UnusableInput
from encamp.storage.disk.copy_file import false_size, write_at
from encamp.storage.disk.holes import data_parts, is_sparse
from encamp.storage.inputs.tree import TreeState, state_of_entries, walk, why_unusable
from encamp.storage.shared_folders import Portable, SharedPath, local, name_of

CHUNK = 4 << 20
"""Bytes that are sent at once."""


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of a file from an offset on, with their digest and the file's state.

    Before them is a hole of ``hole`` bytes, which are not sent.
    """

    data: bytes
    digest: bytes
    size: int
    mtime_ns: int
    hole: int = 0


class SentEntry(msgspec.Struct, frozen=True):
    """One entry of a tree; ``target`` is where a symlink points."""

    path: str
    kind: Literal["file", "folder", "link"]
    size: int
    mtime_ns: int
    permissions: int
    target: str


class Channel(Protocol):
    """Asks the other side; each call blocks until the answer arrives, and raises its error."""

    def chunk(self, path: Portable, offset: int) -> Chunk:
        """Up to `CHUNK` bytes of a file."""

    def entries(self, path: Portable, exclude: tuple[str, ...]) -> list[SentEntry]:
        """The entries of a tree."""


class Sender:
    """Answers the other side of a channel about the files and trees at ``paths`` only.

    Targets of symlinks in these trees may be requested after the tree has been listed.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self._allowed = {os.path.realpath(path) for path in paths}

    def chunk(self, path: Portable, offset: int) -> Chunk:
        """Bytes of a file from ``offset`` on; raises `UnusableInput`."""
        real = self._checked(path)
        try:
            fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise UnusableInput(real, why_unusable(exc)) from exc
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnusableInput(real, "it is not a file")
            hole, length = _next_data(fd, offset)
            data = os.pread(fd, length, offset + hole)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        too_few = not data and not hole and offset < status.st_size
        if too_few or offset + hole + len(data) > status.st_size:
            raise UnusableInput(real, false_size(status.st_size))
        return Chunk(data, digest_of_piece(data), status.st_size, status.st_mtime_ns, hole)

    def entries(self, path: Portable, exclude: tuple[str, ...]) -> list[SentEntry]:
        """The entries of a tree; raises `UnusableInput`."""
        found = list(walk(Path(self._checked(path)), exclude))
        self._allowed.update(e.outside for e in found if e.outside and e.kind != "link")
        return [
            SentEntry(
                entry.path,
                entry.kind,
                entry.status.st_size,
                entry.status.st_mtime_ns,
                stat.S_IMODE(entry.status.st_mode),
                entry.target if entry.kind == "link" else "",
            )
            for entry in found
        ]

    def _checked(self, path: Portable) -> str:
        real = os.path.realpath(local(path))
        above = (real, *map(str, Path(real).parents))
        if self._allowed.isdisjoint(above):
            raise UnusableInput(real, "it is not one of the files that may be sent")
        return real


def _next_data(fd: int, offset: int) -> tuple[int, int]:
    """The size of a hole at ``offset``, and how many bytes to send after it."""
    status = os.fstat(fd)
    if not is_sparse(status):
        return 0, CHUNK
    size = status.st_size
    begin, end = next(data_parts(fd, size, offset), (max(offset, size), size))
    return begin - offset, min(CHUNK, end - begin)


def receive_file(
    channel: Channel, path: Portable, target: Path, expected: tuple[int, int], mode: int
) -> None:
    """Receive a file as the new file ``target``, with its modification time and with ``mode``.

    ``expected`` is its size and mtime_ns. Raises `SourceChanged`, `ShippingFailed`, or OSError from
    the disk; then no target is left.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while offset < expected[0] or offset == 0:
            chunk = _checked_chunk(channel, path, offset, expected)
            write_at(fd, chunk.data, offset + chunk.hole)
            offset += chunk.hole + len(chunk.data)
            if not chunk.hole and not chunk.data:
                break
        if offset != expected[0]:
            raise SourceChanged(name_of(path))
        os.ftruncate(fd, offset)
        os.fchmod(fd, mode & 0o777)
        os.utime(fd, ns=(expected[1], expected[1]))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _checked_chunk(
    channel: Channel, path: Portable, offset: int, expected: tuple[int, int]
) -> Chunk:
    chunk = channel.chunk(path, offset)
    if (chunk.size, chunk.mtime_ns) != expected:
        raise SourceChanged(name_of(path))
    if digest_of_piece(chunk.data) != chunk.digest:
        raise ShippingFailed(name_of(path), f"the bytes from {offset} on were changed in transit")
    return chunk


def receive_tree(
    channel: Channel, path: Portable, target: Path, exclude: tuple[str, ...], *, readonly: bool
) -> TreeState:
    """Receive a tree as ``target``, a new folder; returns the state that it has.

    Raises as `receive_file`, and `ShippingFailed` for entries outside the folder.
    """
    entries = channel.entries(path, exclude)
    target.mkdir(mode=0o700)
    folders = {"."}
    for entry in entries:
        place = target / _safe(entry, path, folders)
        if entry.kind == "folder":
            place.mkdir(mode=0o700)
            folders.add(entry.path)
        elif entry.kind == "link":
            place.symlink_to(entry.target)
        else:
            mode = entry.permissions & 0o555 | 0o400 if readonly else entry.permissions | 0o600
            expected = (entry.size, entry.mtime_ns)
            receive_file(channel, _inner(path, entry.path), place, expected, mode)
    link_targets = {entry.path: entry.target for entry in entries}
    return state_of_entries(
        ((e.path, e.kind, e.size, e.mtime_ns) for e in entries), link_targets.__getitem__
    )


def _inner(tree: Portable, path: str) -> Portable:
    if isinstance(tree, SharedPath):
        return SharedPath(tree.root, f"{tree.rest}/{path}")
    return f"{tree}/{path}"


def _safe(entry: SentEntry, path: Portable, folders: set[str]) -> str:
    """An entry's path, if it is in a folder that was created here, and so in the tree."""
    inner = PurePosixPath(entry.path)
    if inner.name in ("", "..") or "\0" in entry.path or str(inner.parent) not in folders:
        raise ShippingFailed(name_of(path), f"its entry {entry.path!r} would leave the folder")
    return entry.path


def digest_of_piece(data: bytes) -> bytes:
    """The blake2b-128 digest."""
    return hashlib.blake2b(data, digest_size=16).digest()
