"""Shell lines with inserted values, so that no shell takes a value for code.

A *plain* value, of ASCII letters, digits and ``.,:@%+=/-_``, is only a word to any shell, and is
inserted as it is. Any other value is assigned to a variable at the beginning of the line, and
``"$variable"`` is inserted, so that no shell parses the value. It is refused unless the line
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
from encamp.jobs.templates.shell_grammar import Context, ShellLine

if TYPE_CHECKING:
    from encamp.jobs.templates.template import Placeholder

Pieces = tuple["str | Placeholder", ...]

_PLAIN = re.compile(r"[\w.,:@%+=/-]*", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_RESERVED = names(
    "if then elif else fi for while until do done case esac in function select time coproc"
)


def is_plain(value: str) -> bool:
    """Whether a value is only a word to every shell and interpreter."""
    return _PLAIN.fullmatch(value) is not None


def fill_line(pieces: Pieces, values: Mapping[Placeholder, str], *, bash: bool) -> str:
    """A line in pieces with the values of its placeholders filled in.

    Raises `BadJob` if a shell might run a value, or no value can be inserted somewhere.
    """
    line = _read(pieces, bash)
    for placeholder, context in line.contexts:
        _check(placeholder, values[placeholder], context)
    rest: list[str | Placeholder] = []
    contexts = iter(line.contexts)
    for at, piece in enumerate(pieces):
        if not isinstance(piece, str):
            placeholder, context = next(contexts)
            after = pieces[at + 1] if at + 1 < len(pieces) else ""
            if is_plain(values[placeholder]):
                piece = _plain_word(placeholder, values[placeholder], context, after)
        rest.append(piece)
    if all(map(is_plain, values.values())):
        return "".join(map(str, rest))
    return _with_odd(tuple(rest), values, bash=bash)


def _with_odd(pieces: Pieces, values: Mapping[Placeholder, str], *, bash: bool) -> str:
    """Insert the values that are not plain; all others were inserted before."""
    contexts = iter(_read(pieces, bash).contexts)
    set_first: dict[str, str] = {}
    text = ""
    for piece in pieces:
        if not isinstance(piece, str):
            placeholder, context = next(contexts)
            _check_odd(placeholder, values[placeholder], context, _read(pieces, bash))
            name = f"encamp_{placeholder.name}"
            set_first[name] = values[placeholder]
            piece = _variable(name, _folder(placeholder, values[placeholder], context), context)
        text += piece
    return "".join(f"{name}={shlex.quote(value)}; " for name, value in set_first.items()) + text


@lru_cache(maxsize=1024)
def _read(pieces: Pieces, bash: bool) -> ShellLine:
    return ShellLine(pieces, bash=bash)


def _check(placeholder: Placeholder, value: str, context: Context) -> None:
    if context.never:
        raise BadJob(placeholder.written, context.never.replace("{v}", placeholder.written))
    if context.only_numbers and not _NUMBER.fullmatch(value):
        raise BadJob(
            placeholder.written,
            f"is {value!r} here, but only numbers can be inserted inside {context.only_numbers} of "
            "a shell step, because the shell runs any other value there as code; compute it in a "
            "Python step, or in another program such as awk",
        )


def _check_odd(placeholder: Placeholder, value: str, context: Context, line: ShellLine) -> None:
    why = context.only_plain or line.why_unsafe
    if not why and context.may_be_option and value[0] in "-+" and placeholder.name != "input":
        why = (
            f"a program would take it for an option (write ./{placeholder.written} if it is a file)"
        )
    if why:
        raise BadJob(
            placeholder.written,
            f"is {value!r} here, but only ASCII letters, digits and .,:@%+=/-_ are allowed at this "
            f"place of the shell line, because {why}; pass it to a script in a file as an "
            "argument, or use no shell: a list of words, or encamp map without --shell",
        )


def _folder(placeholder: Placeholder, value: str, context: Context) -> str:
    """A prefix that keeps a file's name from being an option; usually empty."""
    return "./" if placeholder.name == "input" and value[:1] == "-" and context.begins_word else ""


def _plain_word(
    placeholder: Placeholder, value: str, context: Context, after: str | Placeholder
) -> str:
    """A plain value, quoted if the shell would give it a meaning there."""
    word = _folder(placeholder, value, context) + value
    is_descriptor = isinstance(after, str) and after[:1] in ("<", ">")
    more = not word or "=" in word or word in _RESERVED or is_descriptor
    return f"'{word}'" if more and not context.quotes else word


def _variable(name: str, folder: str, context: Context) -> str:
    if context.quotes == '"':
        return f"{folder}${{{name}}}"
    return f"'{folder}\"${name}\"'" if context.quotes else f'{folder}"${name}"'
