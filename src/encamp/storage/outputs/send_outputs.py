"""Outputs of hosts that do not see the destination: sent in pieces, and received at the program.

    the task's host                                  the destination's host
    send_file ── pieces ──► OutputChannel ──► Receiver.write: temporary names beside the final ones

`encamp.storage.inputs.send_inputs` sends inputs in the opposite direction, and
`encamp.storage.files_by_request` has both ends of the channel. Outputs that were sent are published
like all others, by `publish.publish` on the destination's host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from encamp.errors import BadDestination, ShippingFailed, UnsafeTarget, printable
from encamp.storage.disk.copy_file import write_at
from encamp.storage.disk.digest import Digest
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.holes import data_parts, is_sparse
from encamp.storage.disk.path_to_destination import Trust, opened
from encamp.storage.disk.temporary_names import PART, Written, discard
from encamp.storage.disk.unsupported_requests import flushed, set_permissions
from encamp.storage.inputs.send_inputs import CHUNK, digest_of_piece
from encamp.storage.shared_folders import Portable, below, local, name_of, with_name


class RemoteTarget(msgspec.Struct, frozen=True):
    """An output's target on another host's disk: a folder there, and a path below."""

    folder: Portable
    inner: PurePosixPath

    @property
    def place(self) -> Portable:
        """The path in a form for all hosts."""
        return below(self.folder, str(self.inner))

    def __str__(self) -> str:
        return f"{name_of(self.folder)}/{self.inner}"


class Piece(msgspec.Struct, frozen=True):
    """Bytes of one output from an offset on; ``token`` makes its temporary name unique.

    The first piece begins at 0, even if there is a hole. ``size`` is the whole file's, in the last
    piece only.
    """

    folder: Portable
    inner: str
    token: str
    offset: int
    data: bytes
    digest: bytes
    permissions: int
    size: int | None


class OutputPaths(msgspec.Struct, frozen=True):
    """The temporary and the final path of an output."""

    part: Portable
    final: Portable
    written: Written | None = None
    """The file when it is complete."""


class OutputChannel(Protocol):
    """Sends to the other side; a call blocks until it is done there, and raises its error."""

    def write(self, piece: Piece) -> OutputPaths:
        """Add a piece to a file."""


def send_file(
    channel: OutputChannel, source: Path, to: RemoteTarget, token: str
) -> tuple[OutputPaths, int, str]:
    """Send a file; returns where it is, its size, and its blake2b-128 in hexadecimal.

    Holes are not sent. Raises OSError from this host's disk, and the other side's errors.
    """
    digest = Digest()
    with source.open("rb", buffering=0) as reader:
        permissions = os.fstat(reader.fileno()).st_mode & 0o777 | 0o200
        for offset, data, last in _blocks(reader.fileno()):
            digest.zeros(offset - digest.size)
            digest.update(data)
            size = digest.size if last else None
            piece_digest = digest_of_piece(data)
            inner = str(to.inner)
            piece = Piece(to.folder, inner, token, offset, data, piece_digest, permissions, size)
            sent = channel.write(piece)
    return sent, digest.size, digest.hex


def _blocks(fd: int) -> Iterator[tuple[int, bytes, bool]]:
    """For each block, its offset, bytes, and whether it is the last; the first begins at 0."""
    at, data = 0, b""
    size = os.fstat(fd).st_size
    for begin, end in _parts(fd):
        while block := os.pread(fd, min(CHUNK, end - begin), begin):
            if data or begin:
                yield at, data, False
            at, data = begin, block
            begin += len(block)
    if at + len(data) < size:  # a hole at the end
        yield at, data, False
        at, data = size, b""
    yield at, data, True


def _parts(fd: int) -> Iterator[tuple[int, int]]:
    """The parts to read, up to the end of the file."""
    status = os.fstat(fd)
    if is_sparse(status):
        yield from data_parts(fd, status.st_size)
        yield status.st_size, sys.maxsize
    else:
        yield 0, sys.maxsize


class Receiver:
    """Receives outputs, only for ``folders`` of this host and those below them.

    Each folder has its trust with it.
    """

    def __init__(self, folders: Mapping[Path, Trust]) -> None:
        self._allowed = folders
        self._parts: set[Path] = set()

    def write(self, piece: Piece) -> OutputPaths:
        """Add a piece to its file, and flush the file if it is the last.

        Raises `BadDestination`, `UnsafeTarget`, `ShippingFailed` or `DiskFull`.
        """
        final, trust = self._final(piece)
        part = final.with_name(f"{PART}{piece.token}")
        if digest_of_piece(piece.data) != piece.digest:
            why = f"the bytes from {piece.offset} on were changed in transit"
            raise ShippingFailed(piece.inner, why)
        if piece.offset == 0:
            self._parts.add(part)
        elif part not in self._parts:
            raise ShippingFailed(piece.inner, "its first piece is missing")
        try:
            written = _write(part, trust, piece)
        except OSError as exc:
            discard(part)
            why = (exc.strerror or str(exc)).lower()
            full = disk_full(exc, final, len(piece.data))
            raise full or BadDestination(printable(final), why) from exc
        to = below(piece.folder, piece.inner)
        return OutputPaths(with_name(to, part.name), to, written)

    def _final(self, piece: Piece) -> tuple[Path, Trust]:
        inner = PurePosixPath(piece.inner)
        if inner.is_absolute() or ".." in inner.parts or "/" in piece.token or not inner.name:
            raise UnsafeTarget(piece.inner, "is outside its destination")
        folder = local(piece.folder)
        if folder not in self._allowed:
            raise BadDestination(str(folder), "it is not a destination of the task")
        return folder / inner, self._allowed[folder].below(len(inner.parts) - 1)

    def discard(self) -> None:
        """Remove unpublished files."""
        for part in self._parts:
            discard(part)


def _write(part: Path, trust: Trust, piece: Piece) -> Written | None:
    """Add a piece; returns the file's state if it is the last."""
    first = piece.offset == 0
    new = os.O_CREAT | os.O_EXCL if first else 0
    with opened(part.parent, trust, make=first) as folder:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | new
        fd = os.open(part.name, flags, 0o600, dir_fd=folder)
    try:
        write_at(fd, piece.data, piece.offset)
        if piece.size is not None:
            os.ftruncate(fd, piece.size)
            set_permissions(fd, piece.permissions & 0o777, part)
            flushed(fd, part)
            return Written.of(os.fstat(fd))
    finally:
        os.close(fd)
    return None
