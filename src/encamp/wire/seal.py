"""Seals, which prove that messages are from a process of the cluster.

If others can put frames into the network, messages are *sealed*: the last part of each is a keyed
BLAKE2b digest (RFC 7693) of its sender, receiver, sequence number and other parts.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence

from encamp.errors import BadFrame
from encamp.wire.frames import Buffer, Parts, size_of

KEY_BYTES = 32
_DIGEST_BYTES = 16


class Seal:
    """Seals the messages that an endpoint sends, and checks those that it receives; for one thread.

    Each pair of endpoints counts its messages in both directions. This detects a message that was
    lost, repeated, changed or inserted without the key, before it is used.
    """

    def __init__(self, key: bytes, me: int) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._me = key, me
        self._sent: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def seal(self, to: int, parts: Sequence[Buffer]) -> Parts:
        """The parts, followed by their digest."""
        number = self._sent[to] = self._sent.get(to, 0) + 1
        return [*parts, self._digest(self._me, to, number, parts)]

    def open(self, sender: int, parts: Sequence[Buffer]) -> Parts:
        """The parts without the digest. Raises `BadFrame` unless they are the next message."""
        number = self._seen.get(sender, 0) + 1
        if len(parts) < 2 or size_of(parts[-1]) != _DIGEST_BYTES:
            raise BadFrame("it is not sealed")
        wanted = self._digest(sender, self._me, number, parts[:-1])
        if not hmac.compare_digest(wanted, bytes(parts[-1])):
            raise BadFrame(f"it is not message {number} of {sender}, sealed with our key")
        self._seen[sender] = number
        return list(parts[:-1])

    def _digest(self, sender: int, to: int, number: int, parts: Sequence[Buffer]) -> bytes:
        sizes = struct.pack(
            f"<4Q{len(parts)}Q", sender, to, number, len(parts), *map(size_of, parts)
        )
        digest = hashlib.blake2b(sizes, digest_size=_DIGEST_BYTES, key=self._key)
        for part in parts:
            digest.update(part)
        return digest.digest()
