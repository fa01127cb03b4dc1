"""Where in a shell line a placeholder stands, and how its value is quoted there.

In some places no quoting keeps a value from being run: comments, here-documents, backquotes,
``$'...'`` and ``${...}``; arithmetic, where bash runs what stands in a subscript; commands that
take their words for code; and after a ``case`` inside ``$(...)``, of which nobody can tell
where it ends but the shell. There a value is refused; in the last three kinds a plain number, which
is the same in all of them, is not. In the text of a program, such as the word after ``sh -c``, no
quoting of the shell's helps either; there values are taken that mean themselves to all programs.
The same holds for text that a shell is given to read: ``sh <<< {v}``, ``echo {v} | sh``.
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
    {"eval", "let", "trap", "unset", "declare", "typeset", "alias", "bind",
     "read", "mapfile", "readarray", "getopts", "wait", "compgen", "complete"}
)  # fmt: skip
"""Or takes them for names of variables, in which bash runs subscripts."""
_NAMES_BY = frozenset({"test", "[", "printf"})
"""Commands of which the word after ``-v`` is such a name."""
_DECLARES = frozenset({"local", "export", "readonly"})
"""Commands that take values as they are, unless they have options, or a value is all of a word."""
_BEFORE_COMMANDS = frozenset(
    {"!", "{", "if", "then", "elif", "else", "while", "until", "do", "time", "builtin", "command",
     "coproc"}
)  # fmt: skip
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh"})
_INTERPRETERS = frozenset({"python", "pypy", "perl", "ruby", "node", "lua"})
_READ_COMMANDS = {*_SHELLS, *_INTERPRETERS, "at", "batch"}
"""Programs that run what they read if they are given nothing else to run."""
_STDIN = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_PROGRAMS = {
    **dict.fromkeys(_SHELLS, r"-\w*c\w*"),
    **dict.fromkeys(("su", "runuser"), r"-\w*c|--(session-)?command=?"),
    **dict.fromkeys(("flock", "script"), r"-\w*c|--command=?"),
    **dict.fromkeys(("python", "pypy", "ipython", "vi", "vim", "ex", "psql"), r"-\w*c"),
    **dict.fromkeys(("perl", "ruby", "node", "lua", "Rscript", "R", "julia"), r"-\w*[eE]|--eval=?"),
    **dict.fromkeys(("gnuplot", "octave"), r"-e|--eval=?"),
    "sed": r"-\w*e|--expression=?",
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), r"-e|--source=?"),
    "php": r"-[rRBE]",
    "env": r"-\w*S|--split-string=?",
}
"""Programs and their options after which the text of a program comes."""
_FIRST_IS_TEXT = frozenset({"awk", "gawk", "mawk", "nawk", "sed"})
"""Programs whose first word that is no option is such a text."""
_ALL_IS_TEXT = frozenset({"ssh", "rsh", "pdsh", "watch", "parallel", "make", "gmake", "tmux"})
"""And those that give all their words to a shell."""
_VERSION = re.compile(r"[-.\d]+$")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_RUN_LATER = re.compile(r"(PS4|BASH_ENV|ENV|PROMPT_COMMAND)\+?=")
"""Variables in which shells run substitutions of commands by themselves."""
_DESCRIPTOR = re.compile(r"\d+|\{[A-Za-z_]\w*\}")
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
    literal: str = ""
    """The word without its quotes; ``$`` stands there for itself only if it is quoted."""
    begins: bool = True
    """Whether the next word is the command's name."""
    is_file: bool = False
    """Whether the next word is where something is redirected to."""
    redirects: str = ""
    """The characters by which it is, such as ``<<<`` and ``>&``."""
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
    words: int = 0
    """How many words that are no options the program has got."""
    has_text: bool = False
    """Whether the program has got a text to run, and so reads none."""
    replaces: bool = False
    """Whether it is an ``xargs`` that fills what it reads into texts."""
    reads: tuple[Hole, str] | None = None
    """A value in what the command reads."""

    def end(self, reads: tuple[Hole, str] | None) -> None:
        """Have the next one begin."""
        self.__init__(reads=reads)  # type: ignore[misc]


class ShellPlace:
    """Where in a shell line the reader is: inside which quotes, brackets, commands or comment."""

    def __init__(self, *, bash: bool) -> None:
        self._tokens = _IN_BASH if bash else _TOKENS
        self.inside: list[str] = []
        self.last = "\n"
        self.here_document = False
        self.filled = False
        self._commands = [_Command()]
        self._variables = {"SHELL": "sh", "BASH": "bash"}
        """What variables of the shell are, where that is plain."""
        self._said: tuple[Hole, str] | None = None
        """A value that a command prints."""
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
            command = self._commands[-1]
            if command.text.endswith("<(...)"):
                command.text = ""
            if command.name == "case":
                command.end(None)  # its first pattern, in brackets

    def _opens(self, mark: str) -> bool:
        return mark in ("'", '"', "(") or (mark == "#" and self.last[-1] in _WORD_ENDS)

    def _follow(self, mark: str, top: str) -> None:
        """Follow the words of the command that is read."""
        command = self._commands[-1]
        if top == "#" or (mark == "\\\n" and top not in ("'", "$'")):
            return
        if top in ("'", '"', "$'", "{", "[") or mark[0] in "\\$'\"`":
            command.word += _QUOTED
            command.literal += _literal(mark, top)
        else:
            for char in mark:
                self._follow_one(command, char)

    def _follow_one(self, command: _Command, char: str) -> None:
        if char not in _WORD_ENDS:
            command.word += char
            command.literal += char
            return
        if char == "(" and command.test is None:
            self._bracket_opens(command)
        if char == "&" and command.is_file and not command.word:
            command.redirects += char
            return  # as in 2>&1
        if char in "<>" and _DESCRIPTOR.fullmatch(command.word):
            command.word = command.literal = ""  # a descriptor, as in 2>file
        again = char in "<>" and command.is_file and not command.word
        if char in "<>" or command.word:
            command.redirects = (command.redirects if again else "") + (
                char if char in "<>" else ""
            )
        is_file = command.is_file and not command.word and char in " \t"
        self._word_ends(command)
        command.is_file = char in "<>" or is_file
        if char in _COMMAND_ENDS and command.test is None:
            self._command_ends(command, char)

    def _bracket_opens(self, command: _Command) -> None:
        """See whose it is: a function's, or of commands whose output is read as a file."""
        if command.is_file and not command.word:
            name = command.program or command.name
            if name in (".", "source") or (name in _READ_COMMANDS and not command.words):
                command.text = f"{name} <(...)"
        elif command.begins and not command.word.endswith("="):
            command.word = command.literal = ""
        elif not (command.begins or command.words or command.word):
            command.begins, command.name = True, ""

    def _command_ends(self, command: _Command, char: str) -> None:
        self._check_read(command)
        if command.begins and not command.name:  # as after the | of |&, or at an end of a line
            command.end(command.reads if char in "&\n" else None)
        else:
            command.end(self._said if char == "|" else None)

    def _check_read(self, command: _Command) -> None:
        """Raise `BadJob` if the command runs what it reads, and a value is in that."""
        name = command.program or command.name
        runs = name in _READ_COMMANDS and not (command.words or command.has_text)
        runs = runs or name in (".", "source") or (command.replaces and name in _PROGRAMS)
        if runs and command.reads is not None:
            raise _is_text(*command.reads, f"{name} to read")

    def _word_ends(self, command: _Command) -> None:
        word, literal = command.word, command.literal
        command.word = command.literal = ""
        if not word:
            return
        found = _VARIABLE.fullmatch(literal)
        value = found and self._variables.get(found[1] or found[2])
        if value and command.test is None and not command.is_file:
            for one in value.split():
                self._word(command, one, one)
            return
        self._word(command, word, literal)

    def _word(self, command: _Command, word: str, literal: str) -> None:
        if command.test is not None:
            self._follow_test(command, command.test, word)
        elif command.is_file:
            command.is_file = False
        elif _ASSIGNMENT.fullmatch(word):
            self._assign(literal)
            if not command.begins:
                self._argument_ends(command, literal)
        elif not command.begins and word == "{" and not command.words:
            command.begins, command.name = True, ""  # as in coproc NAME { ...; }
        elif not command.begins:
            self._argument_ends(command, literal)
        elif command.name == "function":
            command.name = ""
        elif command.name in _BEFORE_COMMANDS and word.startswith("-"):
            pass
        elif literal in _BEFORE_COMMANDS or literal == "function":
            command.name = literal
        else:
            self._name_ends(command, word, literal)

    def _follow_test(self, command: _Command, test: _Test, word: str) -> None:
        if word == "]]":
            command.test = None
        elif word in _COMPARES_NUMBERS:
            test.compares = True
            self._check_test(test)

    def _assign(self, literal: str) -> None:
        name, _, value = literal.partition("=")
        if _FILLED in value or "$" in value:
            self._variables.pop(name, None)
        else:
            self._variables[name] = value

    def _name_ends(self, command: _Command, word: str, literal: str) -> None:
        command.begins = False
        command.name = literal
        command.runs = literal if literal in _RUNS_ITS_WORDS else ""
        self._note_program(command, literal)
        command.test = _Test() if word == "[[" else None
        self._lost |= word == "case" and len(self._commands) > 1

    def _argument_ends(self, command: _Command, word: str) -> None:
        """Follow which words are names of variables, or texts of programs."""
        if command.name in _NAMES_BY:
            command.runs = f"{command.name} -v" if word in ("-v", "-R") else ""
        if command.name in _DECLARES and word.startswith("-"):
            command.runs = f"{command.name} {word}"
        if command.name == "xargs" and re.match("-[Ii]|--replace", word):
            command.replaces = True
        command.words += not word.startswith("-") and word not in _STDIN
        if command.program in _ALL_IS_TEXT:
            return
        options = _PROGRAMS.get(command.program, "")
        command.text = command.text if command.text and word.startswith("-") else ""
        later, command.after_next = command.after_next, ""
        if later:
            command.text = later
        elif options and re.fullmatch(options, word):
            command.text = f"{command.program} {word}"
            command.has_text = True
        elif command.program in _FIRST_IS_TEXT and word.startswith("-"):
            command.text = "" if word in ("-F", "-v", "-f") else command.program
            command.after_next = command.program if word in ("-F", "-v") else ""
        elif not command.text:
            self._note_program(command, word)

    def _note_program(self, command: _Command, word: str) -> None:
        name = word.rpartition("/")[2]
        name = name if name in _PROGRAMS else _VERSION.sub("", name)
        if name in (*_READ_COMMANDS, *_PROGRAMS):
            command.words = 0
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
            self._note_read(hole, value)
        if hole.name == "input" and value.startswith("-") and self._begins_word():
            value = f"./{value}"
        self.last = "x"
        self.filled = True
        self._commands[-1].word += _FILLED
        self._commands[-1].literal += _FILLED
        top = self.inside[-1] if self.inside else ""
        if top == "'":
            return value.replace("'", "'\\''")
        return re.sub(r'([\\"$`])', r"\\\1", value) if top == '"' else shlex.quote(value)

    def _note_read(self, hole: Hole, value: str) -> None:
        """Note a value that a command reads, or prints for another one to read."""
        if _PLAIN.fullmatch(value):
            return
        command = self._commands[-1]
        if command.is_file and command.redirects == "<<<":
            command.reads = self._said = hole, value
        elif command.name in ("echo", "printf") and not command.is_file:
            self._said = hole, value

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
        last = self._commands[-1]
        runs = [one for one in self._commands if not (one is last and one.is_file)]
        places = [_ARITHMETIC[mark] for mark in self.inside if mark in _ARITHMETIC]
        places += [command.runs for command in runs if command.runs]
        places += _places_of(last)
        if self._lost:
            places.append("$(...) with a case")
        if places:
            raise _would_run(hole, value, places[-1])
        texts = [command.text for command in runs if command.text]
        options = _PROGRAMS.get(last.program, "")
        if options and not last.is_file and re.fullmatch(options, last.literal):
            texts.append(f"{last.program} {last.literal}")
        if texts and not _PLAIN.fullmatch(value):
            raise _is_text(hole, value, texts[-1])
        for command in self._commands:
            if command.test is not None:
                command.test.hole = hole, value
                self._check_test(command.test)

    def check_closed(self) -> None:
        """Raise `BadJob` if values were filled in and a quote or bracket is still open.

        The same if the last command runs what it reads, and a value is in that.
        """
        self._follow_one(self._commands[0], "\n")
        if self.filled and self.inside[-1:] not in ([], ["#"]):
            raise BadJob("the shell step", f"has a {self.inside[-1]} that is not closed")


def _places_of(command: _Command) -> list[str]:
    """Where in a command a value would be run that comes now."""
    places = []
    if command.is_file and command.redirects.endswith("&"):
        places.append(f"a redirection by {command.redirects} (write > FILE 2>&1)")
    if command.name in _DECLARES and not command.word and not command.is_file:
        places.append(command.name)
    if found := _RUN_LATER.match(command.word) if command.begins else None:
        places.append(f"{found[1]}=...")
    if command.name == "printf" and command.literal == "-v":
        places.append("printf -v")
    if _SUBSCRIPT.fullmatch(command.word):
        places.append("a subscript")
    return places


def _literal(mark: str, top: str) -> str:
    """What a part of a word is without its quotes."""
    if mark == "$'" or (mark in ("'", '"') and mark == _ENDS.get(top, mark)):
        return ""
    if top in ("'", "$'"):
        return mark.replace("$", _QUOTED)
    if mark[0] == "\\" and len(mark) > 1 and (top != '"' or mark[1] in '\\"$`'):
        return mark[1:].replace("$", _QUOTED)
    return mark


def _is_text(hole: Hole, value: str, text: str) -> BadJob:
    return BadJob(
        hole.written,
        f"cannot be filled in inside the text for {text} of a shell step unless it "
        f"has only letters of ASCII, digits and .,:@%+=/-_, and it is {value!r} here; "
        f'give it as env = {{ VALUE = "{hole.written}" }} and have the text read VALUE',
    )


def _would_run(hole: Hole, value: str, place: str) -> BadJob:
    return BadJob(
        hole.written,
        f"cannot be filled in inside {place} of a shell step unless it is a number, for the shell "
        f"runs what is there as code, and it is {value!r} here; do that in a Python step, or "
        "leave it to another program, such as awk",
    )
