"""What strings in tables and other files stand for: numbers, or themselves."""

from __future__ import annotations

import re

from encamp.task_values import Scalar

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_FORTRAN = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)[dD][-+]?[0-9]+")
_MOST_DIGITS = 1000


def scalar_in(text: str) -> Scalar:
    """The value of a string in a file: a number if it looks like one, None if it is empty.

    Digits that begin with a zero, such as ``007``, stay strings. Fortran's numbers with a point and
    an exponent, such as ``1.0D+03``, are numbers.
    """
    text = text.strip()
    if _WHOLE.fullmatch(text) and len(text) < _MOST_DIGITS:
        return int(text)
    written = re.sub("[dD]", "e", text) if _FORTRAN.fullmatch(text) else text
    if _NUMBER.fullmatch(written) and not re.match("[-+]?0[0-9]", written):
        return float(written)
    return None if text.lower() in ("", "nan") else text
