"""Where in a shell line a placeholder stands, and how its value is quoted there.

In some places no quoting keeps a value from being run: comments, here-documents, backquotes,
``$'...'`` and ``${...}``; arithmetic, where bash runs what stands in a subscript; commands that
take their words for code; and after a ``case`` inside ``$(...)``, of which nobody can tell
where it ends but the shell. There a value is refused; in the last three kinds a plain number, which
is the same in all of them, is not. In the text of a program, such as the word after ``sh -c``, no
quoting of the shell's helps either; there values are taken that mean themselves to all programs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from encamp.errors import BadJob

if TYPE_CHECKING:
    from encamp.jobs.placeholders import Hole

_BARE = re.compile(r"\\.|\$\(\(|\$[({'\[]|\(\(|<<<?|[^\\$<'\"`(){}#\s]+|.", re.DOTALL)
_TOKENS = {
    "'": re.compile(r"[^']+|'"),
    '"': re.compile(r"\\.|\$\(\(|\$[({\[]|[^\\$\"`]+|.", re.DOTALL),
    "#": re.compile(r"[^\n]+|\n"),
    "$'": re.compile(r"[^']+|'"),
    "[": re.compile(r"\\.|\$\(\(|\$[({'\[]|[^\\$'\"`(){}\[\]\s]+|.", re.DOTALL),
}
_IN_BASH = {**_TOKENS, "$'": re.compile(r"\\.|[^\\']+|.", re.DOTALL)}
_PLACES = {"#": "a comment", "`": "backquotes", "{": "${...}", "$'": "$'...'"}
_ENDS = {"'": "'", "$'": "'", '"': '"', "#": "\n", "(": ")", "((": ")", "{": "}", "`": "`",
         "[": "]"}  # fmt: skip
_WITH_COMMANDS = ("(", "((", "`")
"""In which commands stand; in ``((`` only if it is two subshells."""
_WORD_ENDS = frozenset(" \t\n;|&()<>")
_COMMAND_ENDS = frozenset("\n;|&)")
"""A bracket ends a pattern of a ``case``, or what is in the brackets."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_ARITHMETIC = {"((": "((...))", "[": "$[...]"}
_RUNS_ITS_WORDS = frozenset(
    {"eval", "let", "trap", "unset", "declare", "typeset", "alias",
     "read", "mapfile", "readarray", "getopts", "wait", "compgen", "complete"}
)  # fmt: skip
"""Or takes them for names of variables, in which bash runs subscripts."""
_NAMES_BY = frozenset({"test", "[", "printf"})
"""Commands of which the word after ``-v`` is such a name."""
_BEFORE_COMMANDS = frozenset(
    {"!", "{", "if", "then", "elif", "else", "while", "until", "do", "time", "builtin", "command",
     "coproc"}
)  # fmt: skip
_PROGRAMS = {
    **dict.fromkeys(("sh", "bash", "dash", "ash", "ksh", "zsh", "su", "runuser"), "c"),
    **dict.fromkeys(("flock", "script", "python", "python3"), "c"),
    **dict.fromkeys(("perl", "ruby", "node", "lua", "sed", "Rscript"), "eE"),
    "env": "S",
}
"""Programs and their options after which the text of a program comes."""
_FIRST_IS_TEXT = frozenset({"awk", "gawk", "mawk", "nawk", "sed"})
"""Programs whose first word that is no option is such a text."""
_ALL_IS_TEXT = frozenset({"ssh", "watch", "parallel"})
"""And those that give all their words to a shell."""
_PLAIN = re.compile(r"[\w.,:@%+=/-]*", re.ASCII)
"""What no shell, and nothing like it, takes for more than a word."""
_COMPARES_NUMBERS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(\[.*\])?\+?=.*", re.DOTALL)
_SUBSCRIPT = re.compile(r"(?:[A-Za-z_]\w*)?\[[^\]]*", re.DOTALL)
_QUOTED, _FILLED = "\0", "\1"
"""Stand in a word for what is quoted there, and for a value."""


@dataclass
class _Test:
    """A ``[[ ... ]]``: whether it compares numbers, and a value in it that is none."""

    compares: bool = False
    hole: tuple[Hole, str] | None = None


@dataclass
class _Command:
    """A simple command, as far as it was read."""

    word: str = ""
    begins: bool = True
    """Whether the next word is the command's name."""
    is_file: bool = False
    """Whether the next word is where something is redirected to."""
    runs: str = ""
    """The command's name if it takes its words for code."""
    test: _Test | None = None
    name: str = ""
    program: str = ""
    """The last of its words that is a program which takes texts."""
    text: str = ""
    """Of which program the next word is a text."""
    after_next: str = ""
    """And of which the word after that is one."""


class ShellPlace:
    """Where in a shell line the reader is: inside which quotes, brackets, commands or comment."""

    def __init__(self, *, bash: bool) -> None:
        self._tokens = _IN_BASH if bash else _TOKENS
        self.inside: list[str] = []
        self.last = "\n"
        self.here_document = False
        self.filled = False
        self._commands = [_Command()]
        self._lost = False
        """Whether a ``case`` was met inside brackets, so that these may end anywhere."""

    def read(self, text: str) -> str:
        """Move over plain text; returns it."""
        at = 0
        while at < len(text):
            top = self.inside[-1] if self.inside else ""
            match = self._tokens.get(top, _BARE).match(text, at)
            assert match, "the last alternative of every pattern takes any character"  # noqa: S101
            self._follow(match[0], top)
            self._take(match[0], top)
            at = match.end()
            self.last = match[0]
        return text

    def _take(self, mark: str, top: str) -> None:
        if mark == _ENDS.get(top):
            self._pop()
        elif top in ("'", "$'", "#"):
            return
        elif mark == "$'":
            self._push(mark)
        elif mark == "$((" or (mark == "((" and top != '"'):
            self._push("((")
            self._push("((")
        elif mark in ("$(", "${", "`", "$[") or (top != '"' and self._opens(mark)):
            self._push(mark[-1])
        elif mark == "[" and top == "[":
            self._push(mark)
        elif mark == "<<" and top != '"' and "((" not in self.inside:
            self.here_document = True

    def _push(self, mark: str) -> None:
        self.inside.append(mark)
        if mark in _WITH_COMMANDS:
            test = self._commands[-1].test if mark == "(" and self.inside[-2:-1] != ['"'] else None
            self._commands.append(_Command(begins=test is None, test=test))

    def _pop(self) -> None:
        if self.inside.pop() in _WITH_COMMANDS:
            self._commands.pop()

    def _opens(self, mark: str) -> bool:
        return mark in ("'", '"', "(") or (mark == "#" and self.last[-1] in _WORD_ENDS)

    def _follow(self, mark: str, top: str) -> None:
        """Follow the words of the command that is read."""
        command = self._commands[-1]
        if top in ("'", '"', "$'", "#", "{", "["):
            command.word += _QUOTED if top != "#" else ""
        elif mark[0] in "\\$'\"`":
            command.word += _QUOTED
        else:
            for char in mark:
                self._follow_one(command, char)

    def _follow_one(self, command: _Command, char: str) -> None:
        if char not in _WORD_ENDS:
            command.word += char
            return
        if char == "&" and command.is_file and not command.word:
            return  # as in 2>&1
        if char in "<>" and command.word.isdecimal():
            command.word = ""  # a descriptor, as in 2>file
        self._word_ends(command)
        command.is_file = char in "<>"
        if char in _COMMAND_ENDS and command.test is None:
            command.begins, command.runs = True, ""
            command.name = command.program = command.text = command.after_next = ""

    def _word_ends(self, command: _Command) -> None:
        word, command.word = command.word, ""
        if not word:
            return
        if command.test is not None:
            if word == "]]":
                command.test = None
            elif word in _COMPARES_NUMBERS:
                command.test.compares = True
                self._check_test(command.test)
        elif command.is_file:
            command.is_file = False
        elif not command.begins:
            self._argument_ends(command, word)
        elif command.name in _BEFORE_COMMANDS and word.startswith("-"):
            pass
        elif word in _BEFORE_COMMANDS:
            command.name = word
        elif not _ASSIGNMENT.fullmatch(word):
            command.begins = False
            command.name = word
            command.runs = word if word in _RUNS_ITS_WORDS else ""
            self._note_program(command, word)
            command.test = _Test() if word == "[[" else None
            self._lost |= word == "case" and len(self._commands) > 1

    def _argument_ends(self, command: _Command, word: str) -> None:
        """Follow which words are names of variables, or texts of programs."""
        if command.name in _NAMES_BY:
            command.runs = f"{command.name} -v" if word in ("-v", "-R") else ""
        if command.program in _ALL_IS_TEXT:
            return
        options = _PROGRAMS.get(command.program, "")
        command.text = command.text if command.text and word.startswith("-") else ""
        later, command.after_next = command.after_next, ""
        if later:
            command.text = later
        elif options and re.fullmatch(rf"-\w*[{options}]", word):
            command.text = f"{command.program} {word}"
        elif command.program in _FIRST_IS_TEXT and word.startswith("-"):
            command.text = "" if word in ("-F", "-v", "-f") else command.program
            command.after_next = command.program if word in ("-F", "-v") else ""
        elif not command.text:
            self._note_program(command, word)

    def _note_program(self, command: _Command, word: str) -> None:
        name = word.rpartition("/")[2]
        if name in _PROGRAMS or name in _FIRST_IS_TEXT or name in _ALL_IS_TEXT:
            command.program = name
            command.text = name if name in _FIRST_IS_TEXT or name in _ALL_IS_TEXT else ""

    def _check_test(self, test: _Test) -> None:
        if test.compares and test.hole is not None:
            raise _would_run(*test.hole, "[[ ... ]] with a comparison of numbers")

    def quoted(self, hole: Hole, value: str) -> str:
        """A value as it must be written here."""
        self._check_safe(hole)
        if not _NUMBER.fullmatch(value):
            self._check_not_run(hole, value)
        if hole.name == "input" and value.startswith("-") and self._begins_word():
            value = f"./{value}"
        self.last = "x"
        self.filled = True
        self._commands[-1].word += _FILLED
        top = self.inside[-1] if self.inside else ""
        if top == "'":
            return value.replace("'", "'\\''")
        return re.sub(r'([\\"$`])', r"\\\1", value) if top == '"' else shlex.quote(value)

    def _begins_word(self) -> bool:
        return self.last[-1] in _WORD_ENDS or self.last[-1] in "'\"="

    def _check_safe(self, hole: Hole) -> None:
        if self.last in ("\\", "$") and self.inside[-1:] not in (["'"], ["$'"]):
            variable = f" for a variable of the shell write ${{{{{hole.name}}}}}, or"
            instead = f"{variable if self.last == '$' else ''} leave the {self.last} away"
            why = f"cannot follow a {self.last} in a shell step;{instead}"
            raise BadJob(hole.written, why)
        places = [_PLACES[mark] for mark in self.inside if mark in _PLACES]
        if self.here_document:
            places.append("a here-document")
        if places:
            raise BadJob(
                hole.written,
                f"cannot be filled in inside {places[-1]} of a shell step; "
                f'give it as env = {{ VALUE = "{hole.written}" }} and write "$VALUE" there',
            )

    def _check_not_run(self, hole: Hole, value: str) -> None:
        """Raise `BadJob` where the shell would take a value for code, however it is quoted."""
        places = [_ARITHMETIC[mark] for mark in self.inside if mark in _ARITHMETIC]
        last = self._commands[-1]
        runs = [one for one in self._commands if not (one is last and one.is_file)]
        places += [command.runs for command in runs if command.runs]
        if self._lost:
            places.append("$(...) with a case")
        if _SUBSCRIPT.fullmatch(last.word):
            places.append("a subscript")
        if places:
            raise _would_run(hole, value, places[-1])
        texts = [command.text for command in runs if command.text]
        if texts and not _PLAIN.fullmatch(value):
            raise BadJob(
                hole.written,
                f"cannot be filled in inside the text for {texts[-1]} of a shell step unless it "
                f"has only letters of ASCII, digits and .,:@%+=/-_, and it is {value!r} here; "
                f'give it as env = {{ VALUE = "{hole.written}" }} and have the text read VALUE',
            )
        for command in self._commands:
            if command.test is not None:
                command.test.hole = hole, value
                self._check_test(command.test)

    def check_closed(self) -> None:
        """Raise `BadJob` if values were filled in and a quote or bracket is still open."""
        if self.filled and self.inside[-1:] not in ([], ["#"]):
            raise BadJob("the shell step", f"has a {self.inside[-1]} that is not closed")


def _would_run(hole: Hole, value: str, place: str) -> BadJob:
    return BadJob(
        hole.written,
        f"cannot be filled in inside {place} of a shell step unless it is a number, for the shell "
        f"runs what is there as code, and it is {value!r} here; do that in a Python step, or "
        "leave it to another program, such as awk",
    )
