"""Shell lines with inserted values, so that no shell takes a value for code.

A *plain* value, of ASCII letters, digits and ``.,:@%+=/-_``, is a mere word to any shell and goes
into the line as it is. Any other value goes into a variable at the beginning of the line, and
``"$variable"`` into its place, so that no shell parses it; and it is refused unless the line
provably runs no data (`shell_grammar`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from encamp.errors import BadJob
from encamp.jobs.shell_commands import names
from encamp.jobs.shell_grammar import Line, Place

if TYPE_CHECKING:
    from encamp.jobs.placeholders import Hole

Pieces = tuple["str | Hole", ...]

_PLAIN = re.compile(r"[\w.,:@%+=/-]*", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_RESERVED = names(
    "if then elif else fi for while until do done case esac in function select time coproc"
)


def is_plain(value: str) -> bool:
    """Whether a value is no more than a word to any shell and interpreter."""
    return _PLAIN.fullmatch(value) is not None


def fill_line(pieces: Pieces, values: Mapping[Hole, str], *, bash: bool) -> str:
    """A line in pieces with the values of its placeholders filled in.

    Raises `BadJob` where a shell might run a value, or where none can stand.
    """
    line = _read(pieces, bash)
    for hole, place in line.places:
        _check(hole, values[hole], place)
    rest: list[str | Hole] = []
    places = iter(line.places)
    for at, piece in enumerate(pieces):
        if not isinstance(piece, str):
            hole, place = next(places)
            after = pieces[at + 1] if at + 1 < len(pieces) else ""
            if is_plain(values[hole]):
                piece = _plain_word(hole, values[hole], place, after)
        rest.append(piece)
    if all(map(is_plain, values.values())):
        return "".join(map(str, rest))
    return _with_odd(tuple(rest), values, bash=bash)


def _with_odd(pieces: Pieces, values: Mapping[Hole, str], *, bash: bool) -> str:
    """A line with the values that are not plain; all others are in it already."""
    places = iter(_read(pieces, bash).places)
    set_first: dict[str, str] = {}
    text = ""
    for piece in pieces:
        if not isinstance(piece, str):
            hole, place = next(places)
            _check_odd(hole, values[hole], place, _read(pieces, bash))
            name = f"encamp_{hole.name}"
            set_first[name] = values[hole]
            piece = _variable(name, _folder(hole, values[hole], place), place)
        text += piece
    return "".join(f"{name}={shlex.quote(value)}; " for name, value in set_first.items()) + text


@lru_cache(maxsize=1024)
def _read(pieces: Pieces, bash: bool) -> Line:
    return Line(pieces, bash=bash)


def _check(hole: Hole, value: str, place: Place) -> None:
    if place.never:
        raise BadJob(hole.written, place.never.replace("{v}", hole.written))
    if place.only_numbers and not _NUMBER.fullmatch(value):
        raise BadJob(
            hole.written,
            f"cannot be inserted inside {place.only_numbers} of a shell step unless it is a "
            f"number, for the shell runs what is there as code, and it is {value!r} here; do that "
            "in a Python step, or leave it to another program, such as awk",
        )


def _check_odd(hole: Hole, value: str, place: Place, line: Line) -> None:
    why = place.only_plain or line.why_unsafe
    if not why and place.may_be_option and value[0] in "-+" and hole.name != "input":
        why = f"a program would take it for an option (write ./{hole.written} if it is a file)"
    if why:
        raise BadJob(
            hole.written,
            f"is {value!r} here, but this place of the shell line takes only letters of ASCII, "
            f"digits and .,:@%+=/-_, since {why}; give it as an argument to a script in a file, or "
            "use no shell for it: a list of words, or encamp map without --shell",
        )


def _folder(hole: Hole, value: str, place: Place) -> str:
    """What keeps a file's name from being an option."""
    return "./" if hole.name == "input" and value[:1] == "-" and place.begins_word else ""


def _plain_word(hole: Hole, value: str, place: Place, after: str | Hole) -> str:
    """A plain value, quoted where a word means more than itself."""
    word = _folder(hole, value, place) + value
    is_descriptor = isinstance(after, str) and after[:1] in ("<", ">")
    more = not word or "=" in word or word in _RESERVED or is_descriptor
    return f"'{word}'" if more and not place.quotes else word


def _variable(name: str, folder: str, place: Place) -> str:
    if place.quotes == '"':
        return f"{folder}${{{name}}}"
    return f"'{folder}\"${name}\"'" if place.quotes else f'{folder}"${name}"'
