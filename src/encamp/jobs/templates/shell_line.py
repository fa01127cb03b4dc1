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
from encamp.jobs.templates.shell_commands import names
from encamp.jobs.templates.shell_grammar import Line, Place

if TYPE_CHECKING:
    from encamp.jobs.templates.template import Placeholder

Pieces = tuple["str | Placeholder", ...]

_PLAIN = re.compile(r"[\w.,:@%+=/-]*", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_RESERVED = names(
    "if then elif else fi for while until do done case esac in function select time coproc"
)


def is_plain(value: str) -> bool:
    """Whether a value is no more than a word to any shell and interpreter."""
    return _PLAIN.fullmatch(value) is not None


def fill_line(pieces: Pieces, values: Mapping[Placeholder, str], *, bash: bool) -> str:
    """A line in pieces with the values of its placeholders filled in.

    Raises `BadJob` where a shell might run a value, or where none can stand.
    """
    line = _read(pieces, bash)
    for placeholder, place in line.places:
        _check(placeholder, values[placeholder], place)
    rest: list[str | Placeholder] = []
    places = iter(line.places)
    for at, piece in enumerate(pieces):
        if not isinstance(piece, str):
            placeholder, place = next(places)
            after = pieces[at + 1] if at + 1 < len(pieces) else ""
            if is_plain(values[placeholder]):
                piece = _plain_word(placeholder, values[placeholder], place, after)
        rest.append(piece)
    if all(map(is_plain, values.values())):
        return "".join(map(str, rest))
    return _with_odd(tuple(rest), values, bash=bash)


def _with_odd(pieces: Pieces, values: Mapping[Placeholder, str], *, bash: bool) -> str:
    """A line with the values that are not plain; all others are in it already."""
    places = iter(_read(pieces, bash).places)
    set_first: dict[str, str] = {}
    text = ""
    for piece in pieces:
        if not isinstance(piece, str):
            placeholder, place = next(places)
            _check_odd(placeholder, values[placeholder], place, _read(pieces, bash))
            name = f"encamp_{placeholder.name}"
            set_first[name] = values[placeholder]
            piece = _variable(name, _folder(placeholder, values[placeholder], place), place)
        text += piece
    return "".join(f"{name}={shlex.quote(value)}; " for name, value in set_first.items()) + text


@lru_cache(maxsize=1024)
def _read(pieces: Pieces, bash: bool) -> Line:
    return Line(pieces, bash=bash)


def _check(placeholder: Placeholder, value: str, place: Place) -> None:
    if place.never:
        raise BadJob(placeholder.written, place.never.replace("{v}", placeholder.written))
    if place.only_numbers and not _NUMBER.fullmatch(value):
        raise BadJob(
            placeholder.written,
            f"cannot be inserted inside {place.only_numbers} of a shell step unless it is a "
            f"number, for the shell runs what is there as code, and it is {value!r} here; do that "
            "in a Python step, or leave it to another program, such as awk",
        )


def _check_odd(placeholder: Placeholder, value: str, place: Place, line: Line) -> None:
    why = place.only_plain or line.why_unsafe
    if not why and place.may_be_option and value[0] in "-+" and placeholder.name != "input":
        why = (
            f"a program would take it for an option (write ./{placeholder.written} if it is a file)"
        )
    if why:
        raise BadJob(
            placeholder.written,
            f"is {value!r} here, but this place of the shell line takes only letters of ASCII, "
            f"digits and .,:@%+=/-_, since {why}; give it as an argument to a script in a file, or "
            "use no shell for it: a list of words, or encamp map without --shell",
        )


def _folder(placeholder: Placeholder, value: str, place: Place) -> str:
    """What keeps a file's name from being an option."""
    return "./" if placeholder.name == "input" and value[:1] == "-" and place.begins_word else ""


def _plain_word(
    placeholder: Placeholder, value: str, place: Place, after: str | Placeholder
) -> str:
    """A plain value, quoted where a word means more than itself."""
    word = _folder(placeholder, value, place) + value
    is_descriptor = isinstance(after, str) and after[:1] in ("<", ">")
    more = not word or "=" in word or word in _RESERVED or is_descriptor
    return f"'{word}'" if more and not place.quotes else word


def _variable(name: str, folder: str, place: Place) -> str:
    if place.quotes == '"':
        return f"{folder}${{{name}}}"
    return f"'{folder}\"${name}\"'" if place.quotes else f'{folder}"${name}"'
