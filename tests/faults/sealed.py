"""Contents that carry their own digest, so that half of one, or a mixture, is known by itself."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

_DIGEST = 32


def seal(payload: bytes) -> bytes:
    """``payload`` behind its digest."""
    return hashlib.blake2b(payload, digest_size=_DIGEST // 2).hexdigest().encode() + payload


def is_whole(content: bytes) -> bool:
    """Whether ``content`` is what `seal` gave, to the last byte."""
    return len(content) >= _DIGEST and seal(content[_DIGEST:]) == content


def sealed(size: int, seed: object) -> bytes:
    """Sealed random bytes, ``size`` in all."""
    return seal(random.Random(str(seed)).randbytes(size - _DIGEST))


def files_below(top: Path) -> dict[str, bytes]:
    """Path from ``top`` → content, of every file; a symlink's content is where it leads."""
    return {
        str(path.relative_to(top)): bytes(path.readlink()) if path.is_symlink() else _read(path)
        for path in sorted(top.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _read(path: Path) -> bytes:
    return path.read_bytes()
