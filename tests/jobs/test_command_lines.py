"""A command line has the words that a shell would see, whichever way it is split."""

from __future__ import annotations

import random
import shlex

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
