"""The digest of a file's bytes, while they are copied or sent."""

from __future__ import annotations


class Digest:
    """The blake2b-128 of consecutive bytes, and their number."""

    def __init__(self) -> None:
        import hashlib  # imported here, as most slots do not need it

        self.size = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def update(self, data: bytes) -> None:
        """Hash the next bytes."""
        self._hash.update(data)
        self.size += len(data)

    def zeros(self, count: int) -> None:
        """Hash a hole."""
        for _ in range(count // len(_ZEROS)):
            self.update(_ZEROS)
        self.update(_ZEROS[: count % len(_ZEROS)])

    @property
    def hex(self) -> str:
        """The digest in hexadecimal."""
        return self._hash.hexdigest()


_ZEROS = bytes(1 << 20)
