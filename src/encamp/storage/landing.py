"""Outputs of hosts that do not see the destination: sent in pieces, and taken in over there.

    the task's host                                  the destination's host
    send_file ── pieces ──► Channel ──► Receiver.land: temporary names beside the final ones

It is the other direction of `ship`. Publishing is the same for both: by `publish.publish`, on the
destination's host.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from encamp.errors import BadDestination, ShippingFailed, UnsafeTarget, printable
from encamp.storage.disk import disk_full
from encamp.storage.roots import Portable, SharedPath, local, portable, portable_name
from encamp.storage.ship import CHUNK, Sender, digest_of_piece

if TYPE_CHECKING:
    from encamp.storage.mirror import Item

PART = ".encamp-"
"""How temporary names begin; hidden, so that ordinary patterns do not match them."""


@dataclass(frozen=True)
class Far:
    """Where an output goes that this host cannot see: a folder of another's, and a path below."""

    folder: Portable
    inner: PurePosixPath

    def __str__(self) -> str:
        folder = self.folder
        return f"{folder.rest if isinstance(folder, SharedPath) else folder}/{self.inner}"


@dataclass(frozen=True)
class Piece:
    """Bytes of one output from some place on; ``token`` tells its temporary name from others'."""

    folder: Portable
    inner: str
    token: str
    offset: int
    data: bytes
    digest: bytes
    permissions: int
    last: bool


@dataclass(frozen=True)
class Landed:
    """Where an output is now, and where it is to be."""

    part: Portable
    final: Portable


class OutputChannel(Protocol):
    """Reaches the other side; a call blocks until it is done there, and raises what it raises."""

    def land(self, piece: Piece) -> Landed:
        """Add a piece to a file."""


def send_file(channel: OutputChannel, source: Path, to: Far, token: str) -> tuple[Landed, int, str]:
    """Send a file; returns where it is, its size, and its blake2b-128 in hexadecimal.

    Raises OSError from this host's disk, and what the other side raises.
    """
    import hashlib

    whole, offset = hashlib.blake2b(digest_size=16), 0
    with source.open("rb", buffering=0) as reader:
        permissions = os.fstat(reader.fileno()).st_mode & 0o777 | 0o200
        data, last = reader.read(CHUNK), False
        while not last:
            after = reader.read(CHUNK) if data else b""
            last = not after
            whole.update(data)
            digest = digest_of_piece(data)
            inner = str(to.inner)
            piece = Piece(to.folder, inner, token, offset, data, digest, permissions, last)
            landed = channel.land(piece)
            offset += len(data)
            data = after
    return landed, offset, whole.hexdigest()


class Receiver:
    """Takes in outputs, for ``folders`` of this host and those below them only.

    May be used by several threads. After `discard` it takes nothing more.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._allowed = {os.path.realpath(folder) for folder in folders}
        self._parts: set[Path] = set()
        self._lock = threading.Lock()
        self._over = False

    def land(self, piece: Piece) -> Landed:
        """Add a piece to its file, and see that the whole is on the disk if it is the last.

        Raises `BadDestination`, `UnsafeTarget`, `ShippingFailed` or `DiskFull`.
        """
        final = self._final(piece)
        part = final.with_name(f"{PART}{piece.token}")
        if digest_of_piece(piece.data) != piece.digest:
            why = f"the bytes from {piece.offset} on were changed on the way"
            raise ShippingFailed(piece.inner, why)
        with self._lock:
            if self._over:
                raise BadDestination(printable(final), "the task that made it has ended")
            self._parts.add(part)
            try:
                _write(part, piece)
            except OSError as exc:
                why = (exc.strerror or str(exc)).lower()
                full = disk_full(exc, final, len(piece.data))
                raise full or BadDestination(printable(final), why) from exc
        return Landed(portable(part), portable_name(final))

    def _final(self, piece: Piece) -> Path:
        inner = PurePosixPath(piece.inner)
        if inner.is_absolute() or ".." in inner.parts or "/" in piece.token or not inner.name:
            raise UnsafeTarget(piece.inner, "would leave its destination")
        folder = os.path.realpath(local(piece.folder))
        if folder not in self._allowed:
            raise BadDestination(printable(folder), "it is no destination of the task's")
        return Path(folder) / inner

    def discard(self) -> None:
        """Remove what was not published."""
        with self._lock:
            self._over = True
            for part in self._parts:
                part.unlink(missing_ok=True)


def answer(question: Any, inputs: Iterable[Item], receiver: Receiver) -> Any:
    """Answer a host that does not see this one's disk: what it asks for, and what it sends.

    Questions are ``(what, path or piece, detail)``; `Sender` and `Receiver` say what they raise.
    """
    what, about, detail = question
    if what == "land":
        return receiver.land(about)
    sender = Sender(local(item.source) for item in inputs if item.url is None)
    return sender.chunk(about, detail) if what == "chunk" else sender.entries(about, detail)


def _write(part: Path, piece: Piece) -> None:
    if piece.offset == 0:
        part.parent.mkdir(parents=True, exist_ok=True)
    new = os.O_CREAT | os.O_EXCL if piece.offset == 0 else 0
    fd = os.open(part, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | new, 0o600)
    try:
        at, view = piece.offset, memoryview(piece.data)
        while view:
            written = os.pwrite(fd, view, at)
            at, view = at + written, view[written:]
        if piece.last:
            os.fchmod(fd, piece.permissions & 0o777)
            os.fsync(fd)
    finally:
        os.close(fd)
