"""A command line is split into words as by a shell."""

from __future__ import annotations

import datetime
import random
import shlex
from pathlib import Path
from typing import Any

import pytest

from encamp.errors import BadJob
from encamp.jobs.job import Job
from encamp.jobs.steps import command

_SIGNS = "ab#$;*?~=-() \t\n\r'\"\\\x0b\x0c\x1c\x85\xa0\u00e9"


def test_words_are_those_of_the_standard_lexer() -> None:
    made = random.Random(1)
    for _ in range(1000):
        line = "x " + "".join(made.choices(_SIGNS, k=made.randint(0, 9)))
        try:
            words = tuple(shlex.split(line))
        except ValueError:
            continue
        assert command(line).line == words, line


def test_paths_are_words_and_files_and_values() -> None:
    made = command([Path("/bin/cat"), "-"], stdin=Path("in"), env={"DATA": Path("/data")})
    assert (made.line, made.stdin, made.env) == (("/bin/cat", "-"), "in", {"DATA": "/data"})


MISTAKES: list[tuple[Any, dict[str, Any], str]] = [
    (["seq", 5], {}, "a word of a command line: must be a string or a path, not 5"),
    (["seq", None], {}, "a word of a command line: must be a string or a path, not None"),
    (["seq", b"5"], {}, "a word of a command line: must be a string or a path, not b'5'"),
    (b"seq 5", {}, "the command line b'seq 5': must be a string, or a list of words"),
    (None, {}, "the command line None: must be a string, or a list of words"),
    (["a\0"], {}, "a word of a command line: contains a null byte"),
    ("a\0", {"shell": True}, "a shell step: contains a null byte"),
    ("true", {"env": {"N": 5}}, "the variable 'N' of a step: must be a string or a path, not 5"),
    ("true", {"env": {"A=B": "5"}}, "the variable 'A=B': has a name that is not allowed"),
    ("true", {"env": ["N=5"]}, "env of a step: must be a dictionary"),
    ("true", {"stdin": 5}, "stdin of a step: must be a string or a path, not 5"),
    ("true", {"stdout": 1}, "stdout of a step: must be a string or a path, not 1"),
    ("true", {"time_limit": "5 s"}, "must be a number of seconds above 0, not '5 s'"),
    ("true", {"time_limit": -1}, "must be a number of seconds above 0, not -1"),
    ("true", {"time_limit": datetime.timedelta(seconds=5)}, "must be a number of seconds above 0"),
]


@pytest.mark.parametrize(("line", "options", "message"), MISTAKES)
def test_unusable_command_line_is_refused_at_once(
    line: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadJob) as caught:
        command(line, **options)
    assert message in str(caught.value)


def test_task_names_must_be_strings(here: Path) -> None:
    job = Job("job", to="out")
    job.add("a", "true")
    with pytest.raises(BadJob, match="after: must be names of tasks, or patterns for them, not 5"):
        job.add("b", "true", after=[5])  # type: ignore[list-item]
    with pytest.raises(BadJob, match="only: must be names of tasks, or patterns for them, not 5"):
        job.run(only=5)  # type: ignore[arg-type]
    with pytest.raises(BadJob, match="parameters of task b: must be a dictionary, not 'x'"):
        job.add("b", "true", parameters="x")  # type: ignore[arg-type]
