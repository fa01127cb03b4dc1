"""Digests of plain values: strings, numbers, and lists and dictionaries of these.

The arguments, commands, inputs and outputs of a million tasks are such values. Different values
have different `ascii` representations, so hashing the representation is enough.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

SIZE = 16
"""Bytes of a digest."""
_DEEPEST = 50
"""Maximum depth of lists in lists; deeper values, such as a list in itself, are not plain."""
_TEXT = frozenset({str})
SINGLE = frozenset({str, int, float, complex, bool, type(None)})
"""Without bytes: their representation would take four times their memory."""


class NotPlainError(Exception):
    """A value is of a kind that only `fingerprint` supports."""


def digest_of_ordered(value: object) -> bytes:
    """The digest of a plain value that is `ordered`; raises `NotPlainError` for a long number."""
    try:
        text = f"plain {value!a}"  # no other digest is of such a string
    except ValueError:  # more digits than Python writes
        raise NotPlainError from None
    return blake2b(text.encode(), digest_size=SIZE).digest()


def ordered(value: Any, depth: int = 0) -> object:
    """The value, with dictionaries in the order of their keys; raises `NotPlainError`."""
    kind = type(value)
    if kind is tuple or kind is list:
        if SINGLE.issuperset(map(type, value)):
            return value
        if depth < _DEEPEST:
            deeper = depth + 1
            return kind([p if type(p) in SINGLE else ordered(p, deeper) for p in value])
    elif kind in SINGLE:
        return value
    elif kind is dict and depth < _DEEPEST and _TEXT.issuperset(map(type, value)):
        return {key: ordered(value[key], depth + 1) for key in sorted(value)} if value else value
    raise NotPlainError
