"""Glob patterns as strings: escaping, matching, and whether two of them may match the same path.

The patterns are those of `find`: ``*``, ``?`` and ``[...]`` match within a name, but no leading
dot; ``**`` matches folders to any depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

_ESCAPED = {ord(c): f"[{c}]" for c in "*?[~"} | {ord("\\"): "[\\\\]"}
_SPECIAL = re.compile(r"[*?\[]")
_ANY, _STAR = "?", "*"


def escape(value: str) -> str:
    """A glob pattern that matches only this value.

    Every special character goes into brackets, which `fnmatch` and wcmatch read alike.
    """
    return value.translate(_ESCAPED)


def is_glob(pattern: str) -> bool:
    """Whether a pattern may match anything except the file of that name."""
    return _SPECIAL.search(pattern) is not None


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern matches a whole path, or a name."""
    return any(one.fullmatch(path) for one in _compiled(pattern))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> list[re.Pattern[str]]:
    if not _MORE_THAN_STARS.search(pattern):
        return [re.compile(_translated(pattern))]
    from wcmatch import glob

    return [re.compile(one) for one in glob.translate(pattern, flags=glob.GLOBSTAR)[0]]


_MORE_THAN_STARS = re.compile(r"[^\w.*? +,:;=@#%&$-]|\*\*|^$")
"""Patterns with these need wcmatch, which takes longer to load than all of a slot."""


def _translated(pattern: str) -> str:
    """A pattern for one name, with stars and question marks only, as a regular expression.

    As in wcmatch, a name with a leading dot needs one in the pattern.
    """
    text = "".join(_AS_REGEX.get(char) or re.escape(char) for char in pattern)
    start = r"(?![./])" if pattern[0] in (_ANY, _STAR) else ""
    return rf"(?s:(?=.){start}{text}/*)"


_AS_REGEX = {_STAR: "[^/]*", _ANY: "[^/]"}


def fixed_start(name: str) -> str:
    """The common beginning of all matches of a pattern for one name."""
    start = ""
    for token in _tokens(name):
        if len(token) > 1 or token in (_ANY, _STAR):
            break
        start += token
    return start.replace(_LITERAL_STAR, _STAR).replace(_LITERAL_ANY, _ANY)


def may_meet(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether a path may match both of two patterns, which are given name by name.

    Never False if there is such a path. ``**`` may be anywhere.
    """
    return _meet(tuple(first), tuple(second))


@lru_cache(maxsize=1 << 14)
def _meet(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    if not first or not second:
        return all(part == "**" for part in (*first, *second))
    if first[0] == "**":
        return _meet(first[1:], second) or _meet(first, second[1:])
    if second[0] == "**":
        return _meet(first, second[1:]) or _meet(first[1:], second)
    return names_may_meet(first[0], second[0]) and _meet(first[1:], second[1:])


@lru_cache(maxsize=1 << 14)
def names_may_meet(first: str, second: str) -> bool:
    """Whether a name may match both of two patterns."""
    if not is_glob(first) and not is_glob(second):
        return first == second
    for name, pattern in ((first, second), (second, first)):
        if name and not is_glob(name) and not _MORE_THAN_STARS.search(pattern):
            return matches(pattern, name)  # the usual case, faster than the rest
    ours, theirs = _tokens(first), _tokens(second)
    for one, other in ((ours, theirs), (theirs, ours)):
        if other[:1] == (".",) and one[:1] != (".",):
            return False  # what begins with a wildcard matches no leading dot
    return _tokens_meet(ours, theirs)


def _tokens_meet(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """By pairs of positions in both patterns that can be reached with the same beginning."""
    reached, pending = set(), [(0, 0)]
    while pending:
        at = pending.pop()
        if at in reached:
            continue
        reached.add(at)
        i, j = at
        if i == len(first) and j == len(second):
            return True
        pending += _next(first, second, i, j)
    return False


def _next(
    first: tuple[str, ...], second: tuple[str, ...], i: int, j: int
) -> Iterable[tuple[int, int]]:
    ours = first[i] if i < len(first) else None
    theirs = second[j] if j < len(second) else None
    if ours == _STAR:
        yield i + 1, j
        if theirs is not None:
            yield i, j + 1
    if theirs == _STAR:
        yield i, j + 1
        if ours is not None:
            yield i + 1, j
    if ours is None or theirs is None or _STAR in (ours, theirs):
        return
    if _one_character(ours, theirs):
        yield i + 1, j + 1


def _one_character(first: str, second: str) -> bool:
    if _ANY in (first, second) or (len(first) > 1 and len(second) > 1):
        return True
    if len(first) > 1:
        first, second = second, first
    return fnmatchcase(_plain(first), second) if len(second) > 1 else first == second


_LITERAL_STAR, _LITERAL_ANY = "\ue000", "\ue001"


def _plain(token: str) -> str:
    return {_LITERAL_STAR: _STAR, _LITERAL_ANY: _ANY}.get(token, token)


@lru_cache(maxsize=4096)
def _tokens(name: str) -> tuple[str, ...]:
    """A pattern as single characters, ``?``, ``*`` and whole brackets; plain stars are marked."""
    tokens: list[str] = []
    at = 0
    while at < len(name):
        char = name[at]
        if name.startswith("[[:", at) and (end := name.find(":]]", at)) > 0:
            char = name[at : end + 3]
        elif char == "[" and (end := name.find("]", at + 2 + (name[at + 1 : at + 2] in "!^"))) > 0:
            char = name[at : end + 1]
        elif char == "\\" and at + 1 < len(name):
            char = name[at : at + 2]
        tokens.append(_read(char))
        at += len(char)
    return tuple(tokens)


def _read(char: str) -> str:
    if char.startswith("[[:"):
        return _ANY
    if char[0] == "\\" and len(char) == 2:
        char = f"[{char[1]}]"
    if len(char) == 3:  # brackets around one character
        return {_STAR: _LITERAL_STAR, _ANY: _LITERAL_ANY}.get(char[1], char[1])
    if char.startswith("[^"):
        return "[!" + char[2:]
    return "\\" if char == "[\\\\]" else char
