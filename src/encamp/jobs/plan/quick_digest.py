"""Digests of plain values, equal to those of `fingerprint`, in a tenth of the time.

The arguments, commands, inputs and outputs of a million tasks are texts, numbers and lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

SIZE = 16
"""Bytes of a digest."""
_LENGTH = 8
_BEFORE_DIGEST = SIZE.to_bytes(_LENGTH, "little")
_DEEPEST = 50
"""Lists in lists: what is deeper, as a list that holds itself, is not plain."""


class NotPlainError(Exception):
    """A value is of a kind that only `fingerprint` supports."""


def quick_digest(value: object, depth: int = 0) -> bytes:
    """The digest of a value of Python's plain types; raises `NotPlainError`."""
    found = _KINDS.get(type(value))
    if found is None or depth > _DEEPEST:
        raise NotPlainError
    return found(value, depth)


def digest_of_calls(calls: Iterable[tuple[object, object]]) -> bytes:
    """`quick_digest` of a list of pairs: positional and keyword arguments of calls."""
    each = [joined(b"tuple", (quick_digest(args), quick_digest(kw))) for args, kw in calls]
    return joined(b"list", each)


def joined(kind: bytes, digests: Iterable[bytes]) -> bytes:
    """The digest of what has these parts."""
    return blake2b(_BEFORE_DIGEST.join([kind, *digests]), digest_size=SIZE).digest()


def _of_data(kind: bytes, data: bytes) -> bytes:
    return blake2b(kind + len(data).to_bytes(_LENGTH, "little") + data, digest_size=SIZE).digest()


@lru_cache(maxsize=4096)
def _of_short(text: str) -> bytes:
    return _of_data(b"str", text.encode("utf-8", "surrogatepass"))


def _of_text(text: Any, _depth: int) -> bytes:
    return _of_short(text) if len(text) < _SHORT else _of_short.__wrapped__(text)


class _Items(NamedTuple):
    """A hashable dictionary whose values also compare by type."""

    items: tuple[tuple[str, object], ...]
    kinds: tuple[type, ...]


def _hashable(value: object) -> object:
    if type(value) is not dict:
        return value
    return _Items(tuple(value.items()), tuple(map(type, value.values())))


class Fields:
    """Digests of objects as dictionaries of their fields, of which all but one often repeat."""

    def __init__(self, names: Iterable[str], own: str) -> None:
        self._own = own
        self._names = sorted(names)
        self._rest = [name for name in self._names if name != own]
        self._around = lru_cache(maxsize=1024, typed=True)(self._made_around)

    def digest(self, value: object, **other: object) -> bytes:
        """The digest of these fields, with some of them replaced by ``other``.

        Raises `NotPlainError` as `quick_digest` does.
        """
        rest = [other[name] if name in other else getattr(value, name) for name in self._rest]
        try:
            before, after = self._around(*map(_hashable, rest))
        except TypeError:  # what cannot be hashed
            before, after = self._made_around(*rest)
        own = quick_digest(getattr(value, self._own))
        return blake2b(before + own + after, digest_size=SIZE).digest()

    def _made_around(self, *rest: object) -> tuple[bytes, bytes]:
        """What is hashed before and after the digest of the field that does not repeat."""
        plain = [dict(one.items) if type(one) is _Items else one for one in rest]
        values = dict(zip(self._rest, plain, strict=True))
        before: list[bytes] = [b"dict"]
        after: list[bytes] = []
        for name in self._names:
            (after if name > self._own else before).append(quick_digest(name))
            if name != self._own:
                (after if name > self._own else before).append(quick_digest(values[name]))
        ends = _BEFORE_DIGEST if after else b""
        return _BEFORE_DIGEST.join([*before, b""]), ends + _BEFORE_DIGEST.join(after)


_SHORT = 32
"""Characters of a text whose digest is kept: names of fields, patterns, words."""


def _of_repr(value: Any, _depth: int) -> bytes:
    return _of_data(type(value).__name__.encode(), repr(value).encode())


def _of_bytes(value: Any, _depth: int) -> bytes:
    return _of_data(type(value).__name__.encode(), bytes(value))


def _of_list(value: Any, depth: int) -> bytes:
    if not value:
        return _EMPTY[type(value)]
    return joined(type(value).__name__.encode(), [quick_digest(part, depth + 1) for part in value])


def _of_dict(value: Any, depth: int) -> bytes:
    if not value:
        return _EMPTY[dict]
    if not all(type(key) is str for key in value):
        raise NotPlainError
    digests: list[bytes] = []
    for key in sorted(value):
        digests += (_of_text(key, 0), quick_digest(value[key], depth + 1))
    return joined(b"dict", digests)


_EMPTY = {kind: joined(kind.__name__.encode(), ()) for kind in (tuple, list, dict)}
_FEW = {value: _of_repr(value, 0) for value in (None, False, True)}
_KINDS: dict[type, Callable[[Any, int], bytes]] = {
    str: _of_text,
    bytes: _of_bytes,
    bytearray: _of_bytes,
    **dict.fromkeys((bool, type(None)), lambda value, _depth: _FEW[value]),
    tuple: _of_list,
    list: _of_list,
    dict: _of_dict,
    **dict.fromkeys((int, float, complex), _of_repr),
}
