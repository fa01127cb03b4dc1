"""Checks of numbers from users: those of Python, NumPy and others, but not Booleans."""

from __future__ import annotations

import math
import operator
import threading
from contextlib import suppress
from numbers import Real

from encamp.errors import BadJob, WrongType

MOST_SLOTS = 1_000_000
"""More than any cluster has cores. (The program keeps a record of each slot.)"""


def as_whole(value: object) -> int | None:
    """``value`` as an int; None if it is not an integer."""
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)  # type: ignore[arg-type]
    return None


def as_number(value: object) -> float | None:
    """``value`` as a plain Python number; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return value if isinstance(value, int | float) else float(value)


def duration(name: str, value: object) -> float:
    """The option ``name`` as seconds, 0 or more; accepts strings. Raises `BadJob`."""
    with suppress(TypeError, ValueError, OverflowError):
        number = float(value)  # type: ignore[arg-type]
        if 0 <= number < math.inf and not isinstance(value, bool):
            return number
    raise BadJob(name, f"must be seconds, not {value!r}")


def patience(timeout: object) -> float | None:
    """The number of seconds to wait, 0 or more; None: forever. Raises `WrongType`."""
    if timeout is None:
        return None
    number = as_number(timeout)
    if number is None or number != number:
        raise WrongType("timeout", f"must be a number of seconds or None, not {timeout!r}")
    return max(0, number) if number < threading.TIMEOUT_MAX else None


def limit(name: str, value: object) -> float | None:
    """The option ``name`` as seconds above 0; None: no limit. Raises `BadJob`."""
    if value is None:
        return None
    number = as_number(value)
    if number is None or not number > 0:
        raise BadJob(name, f"must be a number of seconds above 0, not {value!r}")
    return number if number < threading.TIMEOUT_MAX else None


def whole(name: str, value: object, least: int) -> int:
    """The option ``name`` as an integer. Raises `BadJob`."""
    number = as_whole(value)
    if number is None or number < least:
        raise BadJob(name, f"must be an integer, {least} or more, not {value!r}")
    return number


def slot_count(value: object) -> int:
    """The option ``slots``, at most `MOST_SLOTS`. Raises `BadJob`."""
    slots = whole("slots", value, 1)
    if slots > MOST_SLOTS:
        raise BadJob("slots", f"must be at most {MOST_SLOTS:,}, not {slots:,}")
    return slots
