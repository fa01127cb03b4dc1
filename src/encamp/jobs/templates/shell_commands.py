"""Finds commands of a shell line that might run their words or their input as code.

`why_unsafe` returns why a command must not get data, or an empty string. The lists contain programs
that run their input, that take a word for a program, or that run other commands. All other programs
count as harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Word:
    """A word of a shell line, with its text if that is literal."""

    text: str | None
    start: str = ""
    """The word's literal beginning, such as ``--to=`` in ``--to="$x"``."""
    splits: bool = False
    """Whether the shell may split it into several words, as ``$x`` without quotes."""


Words = Sequence[Word]
DATA = Word(None)


def names(text: str) -> frozenset[str]:
    """The names in a text."""
    return frozenset(text.split())


@dataclass(frozen=True)
class _Texts:
    """How a program gets the code that it runs: patterns for its options."""

    flags: str = "(?!)"
    """Options without an argument."""
    data: str = "(?!)"
    """Options with an argument that is data."""
    files: str = "(?!)"
    """Options with a file of code as argument."""
    texts: str = "(?!)"
    """Options with code as argument."""
    runs: str = ""
    """A pattern for code that may run data; empty if a program takes a file as its first word."""


_SHELL = _Texts(flags=r"-[euvx]+")
_PYTHON = _Texts(flags=r"-[bBdEIOPsSuv]+", data=r"-[WX].*", files="-m")
_VANILLA = _Texts(flags=r"--(vanilla|no-[\w-]+|quiet|silent|norc)")
_AWK = _Texts(
    data=r"-[Fv].*",
    files="-f",
    runs=r"system|getline|@|(?<!\|)\|(?=[\s\"$(&])|(?<=\s)\|(?!\|)|print[^;{}\n]*(?<!\|)\|(?!\|)",
)
_SED = _Texts(
    flags=r"-[nErsuz]+|-i[.\w]*|--(quiet|silent|regexp-extended)",
    files="-f",
    texts=r"-[nErsuz]*e|--expression",
    runs=r"(^|\W|[gpiImM\d])e([gpiImM\d]*w|[gpiImM\d]*\s*($|[;}\n]))",
)
_PROGRAMS = {
    **dict.fromkeys(
        names("sh bash rbash dash ash ksh mksh lksh pdksh yash posh zsh fish csh tcsh xonsh pwsh"),
        _SHELL,
    ),
    **dict.fromkeys(names("python pypy"), _PYTHON),
    **dict.fromkeys(names("Rscript octave"), _VANILLA),
    "julia": _Texts(flags=r"--(project|threads)=\S*|-[Ot]\d*"),
    **dict.fromkeys(
        names(
            "ipython perl ruby node nodejs lua luajit php R tclsh wish expect gnuplot guile scilab"
        ),
        _Texts(),
    ),
    **dict.fromkeys(names("awk gawk mawk nawk"), _AWK),
    **dict.fromkeys(names("sed gsed"), _SED),
}
_RUNS_DATA = names(
    # builtins of shells that take words for code or for names of variables
    "eval let trap alias unalias bind complete compgen compopt coproc declare typeset local export "
    "readonly unset mapfile readarray getopts enable fc hash history shopt jobs "
    # programs that run words or what they read, or give them to a shell
    "ssh rsh scp sftp rsync pdsh clush watch parallel make gmake cmake tmux screen su runuser at "
    "batch crontab ed ex red vi vim view nvim emacs m4 bc dc gdb script socat nc ncat telnet ftp "
    "psql mysql sqlite mail mailx entr git docker podman kubectl matlab maxima gp ghci irb jshell "
    "scala sbatch qsub bsub start-stop-daemon systemd-run newgrp sg less more man xterm"
)
_BEFORE_ANOTHER = names(
    "env nice nohup timeout time command builtin exec stdbuf setsid ionice taskset chrt numactl "
    "xargs sudo doas strace ltrace perf valgrind mpiexec mpirun orterun srun unbuffer chroot "
    "nsenter unshare flock busybox toybox xvfb-run conda mamba micromamba singularity apptainer "
    "poetry uv faketime fakeroot proot setarch prlimit dbus-run-session jsrun aprun "
    "find gfind"
)
"""Commands that run another command, which is among their words."""
_RUN_BY_OPTION = {
    "find": "(?!)",
    "env": r"-[^iu-].*|-i.+|--s.*",
    "flock": r"-\w*c.*|--c.*",
    "xargs": r"-[IiJ].*|--replace.*",
    "zip": r"-TT|--unzip-command.*",
    "tar": r"-?[A-Za-z]*[IF].*|-.*(action|command|program|script)\b.*",
    "": r"-.*(command|program|filter|exec|eval|action|pager|editor|shell|rsh|script|hook)\b.*",
}
"""Options that make programs run the rest of the line: for some programs, and for all others."""
_RESERVED = names(
    "! { } [[ ]] if then elif else fi for while until do done case esac in function select"
)
_COMMAND = re.compile(r"[\w./:@%+,-]+|\[", re.ASCII)
_SUBCOMMANDS = names("run exec stat record")
_SET = re.compile(r"[-+][efuvxC]+|[-+]o|errexit|noglob|nounset|pipefail|noclobber")
_NAME = re.compile(r"[A-Za-z_./][\w./+-]*", re.ASCII)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=", re.ASCII)
_RUN_BY_SHELLS = re.compile(r"BASH_.*|ENV|PS[0-9]|PROMPT_COMMAND|SHELLOPTS|BASHOPTS")
_SPECIAL = re.compile(
    r"BASH.*|ENV|PS[0-9]|SHELL(OPTS)?|OPTIND|S?RANDOM|SECONDS|LINENO|HIST\w*|EPOCH\w*|IFS|(CD)?PATH|"
    r"(LD|DYLD|LUA|R|GIT|JAVA|NODE)_\w+|_JAVA_OPTIONS|(PYTHON|PERL|RUBY|AWK|LESS|MAKE)\w*|VISUAL|"
    r"CC|CXX|FC|AR|\w*(EDITOR|PAGER|OPTIONS|RSH|COMMAND|BROWSER)"
)

_READ_INTO = re.compile(rf"(?!({_SPECIAL.pattern})$)[\w.,:-]*", re.ASCII)
_RUN_INPUT = names(
    "code pdb timeit profile cProfile trace runpy asyncio doctest IPython ptpython bpython"
)
"""Python modules that run code that they are given."""


def runs_variable(name: str) -> bool:
    """Whether shells run the contents of a variable with this name."""
    return _RUN_BY_SHELLS.fullmatch(name) is not None


def is_special(name: str) -> bool:
    """Whether a variable has a meaning for shells or programs."""
    return _SPECIAL.fullmatch(name) is not None


def why_unsafe(words: Words) -> str:
    """Why data in this command or its input might be run as code; empty if it is not."""
    first, rest = words[0], words[1:]
    if first.text is None or not _COMMAND.fullmatch(first.text):
        return "the line contains a command whose name is not a literal word"
    name = _base_name(first.text)
    if name in _RESERVED:
        return "it cannot be parsed for certain"
    return "" if _is_safe(name, rest) else f"its {name} might run data as code"


def _is_safe(name: str, words: Words) -> bool:
    if name in _RULES:
        return _RULES[name](words)
    if name in _PROGRAMS:
        return _runs_only_code(_PROGRAMS[name], words)
    if name in _RUNS_DATA or _by_option(name, words):
        return False
    if name in _BEFORE_ANOTHER:
        return _is_safe_inside(name, words)
    inside = (at for at, word in enumerate(words) if _base_name(word.text or "") in _PROGRAMS)
    return not any(why_unsafe(words[at:]) for at in inside)


def code_files(words: Words) -> set[str]:
    """The names of files that a command runs: a script, or a program that has a path."""
    files = {words[0].text} if words and "/" in (words[0].text or "") else set()
    for at, word in enumerate(words):
        if word.text in (".", "source") and at == 0:
            files.update(other.text for other in words[1:])
        elif program := _PROGRAMS.get(_base_name(word.text or "")):
            rest = [other.text for other in words[at + 1 :] if other.text]
            files.update([one for one in rest if one[0] != "-"][: not program.runs])
            files.update(other for one, other in pairwise(rest) if one == "-f")
    return {file.rpartition("/")[2] for file in files if file}


def is_safe_test(words: Words) -> bool:
    """Whether a ``[ ... ]`` cannot contain ``-v`` followed by a name with a subscript."""
    named = any(word.splits or word.text in ("-v", "-R") for word in words)
    literal = [word.text is not None for word in words]
    return not named and (False, False) not in pairwise(literal)


def _is_safe_printf(words: Words) -> bool:
    return bool(words and (words[0].text or "-")[0] != "-")  # else it may be -v, and a name


def _is_safe_read(words: Words) -> bool:
    return all(word.text is not None and _READ_INTO.fullmatch(word.text) for word in words)


def _is_safe_set(words: Words) -> bool:
    return all(_SET.fullmatch(word.text or "") for word in _until(words, "--"))


def _are_files(words: Words) -> bool:
    return bool(words) and all(_is_file(word) for word in words)


_RULES: dict[str, Callable[[Words], bool]] = {
    "echo": lambda _: True,
    "test": is_safe_test,
    "[": is_safe_test,
    "printf": _is_safe_printf,
    "read": _is_safe_read,
    "set": _is_safe_set,
    "wait": lambda words: all((word.text or "-")[0] != "-" for word in words),  # else wait -p NAME
    "gnuplot": _are_files,
    ".": _are_files,
    "source": _are_files,
}
_KNOWN = {*_PROGRAMS, *_RUNS_DATA, *_BEFORE_ANOTHER, *_RULES}


def _base_name(text: str) -> str:
    """A program's name without folder and version: ``python`` for ``/usr/bin/python3.11``."""
    name = text.rpartition("/")[2]
    return re.sub(r"[-.\d]+$", "", name) or name


def _until(words: Words, end: str) -> Words:
    return next((words[:at] for at, word in enumerate(words) if word.text == end), words)


def _is_file(word: Word) -> bool:
    text = word.text or "-"
    return text[0] not in "-+" and not re.search(r"(^|/)(dev|proc)/|[^\w.,:@%+=/-]", text, re.ASCII)


def _runs_only_code(program: _Texts, words: Words) -> bool:
    """Whether the code that a program runs is literal; then its other words are data."""
    has_code = False
    while words and (words[0].text or words[0].start)[:1] in ("-", "+"):
        option, after = words[0], words[1] if len(words) > 1 else DATA
        text = option.text or ""
        is_data = re.fullmatch(program.data, text or option.start) is not None
        is_file = re.fullmatch(program.files, text) and after.text not in _RUN_INPUT
        is_code = (is_file and _is_file(after)) or (
            re.fullmatch(program.texts, text) and _runs_nothing(program, after)
        )
        if not (is_data or is_code or re.fullmatch(program.flags, text)):
            return False
        has_code = has_code or bool(is_code)
        if has_code and not program.runs:
            return True  # all words after it are the module's
        words = words[2 if is_code or (is_data and len(text) == 2) else 1 :]
    if has_code:
        return True
    return bool(words) and (
        _runs_nothing(program, words[0]) if program.runs else _is_file(words[0])
    )


def _runs_nothing(program: _Texts, text: Word) -> bool:
    return text.text is not None and not re.search(program.runs, text.text)


def _by_option(name: str, words: Words) -> bool:
    """Whether an option may run data."""
    pattern = re.compile(_RUN_BY_OPTION.get(name, _RUN_BY_OPTION[""]))
    always = name in _BEFORE_ANOTHER
    return any(
        pattern.fullmatch(one.text or one.start) and (always or None in (one.text, other.text))
        for one, other in pairwise([*words, Word("")])
    )


def _is_safe_inside(name: str, words: Words) -> bool:
    """Whether the inner command is literal before any data, and safe itself."""
    if name in ("find", "gfind"):
        starts = [
            at for at, word in enumerate(words) if re.fullmatch("-(exec|ok)(dir)?", word.text or "")
        ]
        return all(_is_safe_inside("", words[at + 1 :]) for at in starts)
    named = False
    words = [*words, DATA] if name == "xargs" else words
    for at, word in enumerate(words):
        text = word.text or word.start
        assigned = _ASSIGNMENT.match(text)
        if assigned and (
            runs_variable(assigned[1]) or (word.text is None and is_special(assigned[1]))
        ):
            return False
        if word.text is None and (word.splits or not (named or assigned)):
            return bool(name == "xargs" and at == len(words) - 1)
        if word.text and _base_name(text) in _KNOWN:
            return not why_unsafe(words[at:])
        named = named or bool(word.text and _NAME.fullmatch(text) and text not in _SUBCOMMANDS)
    return True
