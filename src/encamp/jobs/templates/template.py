"""Templates: strings with placeholders such as ``{stem}``.

``{run:03d}`` pads an integer with zeros; ``{{`` and ``}}`` are plain braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from encamp.errors import BadJob

TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")
"""A placeholder or a brace, as it is written."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::(0[1-9][0-9]?)d?)?\}")


@dataclass(frozen=True)
class Placeholder:
    """One placeholder of a template: its name, zero padding (``"03"``), and original text."""

    name: str
    padding: str
    written: str


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[str | Placeholder, ...]:
    """A string as plain pieces and `Placeholder` objects, never two plain pieces in a row."""
    if "\0" in text:
        raise BadJob(repr(text), "contains a null byte, which is not allowed in names and commands")
    pieces: list[str | Placeholder] = []
    for piece in _pieces(text):
        if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += piece
        elif piece:
            pieces.append(piece)
    return tuple(pieces)


def _pieces(text: str) -> Iterator[str | Placeholder]:
    at = 0
    for match in TOKEN.finditer(text):
        yield text[at : match.start()]
        yield _piece(match[0])
        at = match.end()
    yield text[at:]


def _piece(token: str) -> str | Placeholder:
    if token in ("{{", "}}"):
        return token[0]
    if token in ("{", "}"):
        raise BadJob(token, f"a lone brace; write {token * 2} for a plain brace")
    match = _PLACEHOLDER.fullmatch(token)
    return Placeholder(match[1], match[2] or "", token) if match else Placeholder("", "", token)
