"""The values of placeholders such as ``{stem}``, and how to insert them into each kind of text.

A template is a pattern, a word of a command, a shell line or plain text. A value stays one value in
all of them, whatever characters it contains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from encamp.errors import BadJob
from encamp.jobs.steps import Command
from encamp.jobs.templates.template import Placeholder, parse
from encamp.storage.inputs.globs import escape

Values = Mapping[str, str]
"""The value of each placeholder, by its name."""

FILE_NAMES = ("input", "name", "stem", "suffix", "parent", "path")
"""Placeholders of a task that is made for a file."""
OF_THE_MATCH = ("name", "stem", "suffix")
"""Placeholders that in a ``rename`` are those of the file that is renamed."""


def _value(placeholder: Placeholder, values: Values) -> str:
    if placeholder.name not in values:
        raise BadJob(placeholder.written, _unknown(placeholder, list(values)))
    value = values[placeholder.name]
    if not placeholder.padding:
        return value
    if not re.fullmatch("-?[0-9]+", value):
        raise BadJob(
            placeholder.written,
            f"pads integers only, and {placeholder.name} is {value!r} here",
        )
    return format(int(value), placeholder.padding)


def _unknown(placeholder: Placeholder, known: list[str]) -> str:
    from difflib import get_close_matches

    word = placeholder.name or re.sub(r"\W.*", "", placeholder.written[1:-1], flags=re.DOTALL)
    close = get_close_matches(word, known, 1)
    guess = f"did you mean {{{close[0]}}}? " if close and close[0] != word else ""
    padding = "only zero padding can be added, such as {index:03d}; " if word in known else ""
    files = (
        "it is only for tasks that foreach makes for files; "
        if placeholder.name in FILE_NAMES
        else ""
    )
    names = ", ".join(f"{{{name}}}" for name in sorted(known))
    return (
        f"no such placeholder here; {guess}{padding}{files}the placeholders are {names}; "
        "write {{ and }} for plain braces"
    )


def _filled(text: str, values: Values, change: Callable[[str], str]) -> str:
    pieces = parse(text)
    if len(pieces) == 1 and isinstance(pieces[0], str):  # most words have no placeholder
        return pieces[0]
    return "".join(
        [piece if isinstance(piece, str) else change(_value(piece, values)) for piece in pieces]
    )


def fill(text: str, values: Values) -> str:
    """``text`` with the values inserted unchanged.

    Raises `BadJob` for one that is not in ``values``, or a lone brace.
    """
    return _filled(text, values, str)


def fill_pattern(text: str, values: Values) -> str:
    """A glob pattern with its placeholders filled; a value with ``*`` or ``[`` stays itself."""
    return _filled(text, values, escape)


def fill_rename(text: str, values: Values) -> str:
    """A ``rename`` with all filled but ``{name}``, ``{stem}`` and ``{suffix}``.

    Those are the renamed file's, so they are left for `Mirror` and `Output` to fill.
    """
    known = {**values, **dict.fromkeys(OF_THE_MATCH, "")}
    return "".join(_renaming(piece, known) for piece in parse(text))


def _renaming(piece: str | Placeholder, values: Values) -> str:
    if isinstance(piece, Placeholder):
        if piece.name in OF_THE_MATCH and not piece.padding:
            return piece.written
        piece = _value(piece, values)
    return piece.replace("{", "{{").replace("}", "}}")


def fill_word(word: str, values: Values) -> str:
    """One word of a command line; it stays one word.

    A word that begins with ``{input}`` begins with ``./`` where the file's name begins with a
    dash, so that no program takes the name for an option.
    """
    filled = fill(word, values)
    if filled[:1] != "-":
        return filled
    first = parse(word)[0]
    is_input = isinstance(first, Placeholder) and first.name == "input"
    return f"./{filled}" if is_input else filled


def fill_shell(line: str, values: Values, *, bash: bool = False) -> str:
    """A line for ``/bin/sh``, or for bash, with its placeholders filled and quoted.

    Raises `BadJob` where a value might be run as code, or cannot be quoted: see `shell_line`.
    """
    from encamp.jobs.templates.shell_line import fill_line

    pieces = parse(line)
    found = {
        placeholder: _value(placeholder, values)
        for placeholder in pieces
        if isinstance(placeholder, Placeholder)
    }
    return fill_line(pieces, found, bash=bash) if found else "".join(map(str, pieces))


def _fill_variable(name: str, text: str, values: Values) -> str:
    """The value of an environment's variable."""
    from encamp.jobs.templates.shell_commands import runs_variable
    from encamp.jobs.templates.shell_line import is_plain

    if runs_variable(name) and not all(is_plain(value) for value in _filled_in(text, values)):
        why = (
            f"shells run the value of {name} as code, so only ASCII letters, digits and "
            ".,:@%+=/-_ can"
        )
        raise BadJob(text, f"{why} be inserted there; use a variable with a different name")
    return fill(text, values)


def _filled_in(text: str, values: Values) -> list[str]:
    return [_value(piece, values) for piece in parse(text) if isinstance(piece, Placeholder)]


def fill_command(command: Command, values: Values) -> Command:
    """A command with the placeholders of its words, ``env``, ``stdin`` and ``stdout`` filled."""
    line: str | tuple[str, ...]
    if isinstance(command.line, str):
        line = fill_shell(command.line, values, bash=command.shell == "bash")
    else:
        line = tuple([fill_word(word, values) for word in command.line])
    return Command(
        line,
        command.shell,
        command.time_limit,
        {name: _fill_variable(name, value, values) for name, value in command.env.items()},
        None if command.stdin is None else fill(command.stdin, values),
        None if command.stdout is None else fill(command.stdout, values),
    )


def file_values(path: Path) -> dict[str, str]:
    """The values of `FILE_NAMES` for a file."""
    path = path.absolute()
    folder = path.parent if path.parent.name != ".." else path.parent.resolve()
    facts = (path.name, path.name, path.stem, path.suffix, folder.name, str(path))
    return dict(zip(FILE_NAMES, facts, strict=True))
