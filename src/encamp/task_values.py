"""The values of tasks: numbers and strings, the rows of a job's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encamp.errors import BadValues

Scalar = str | int | float | bool | None
"""The type of a cell in the table."""
MOST_COLUMNS = 1000
LONGEST_TEXT = 10_000
"""The most characters of a value."""


MOST_KEPT = 1 << 20
"""Bytes of a value that journals and reports keep: larger ones belong in output files."""


def as_json(value: object) -> object:
    """``value`` if JSON can represent it, in `MOST_KEPT` bytes, else None.

    NumPy's numbers become Python's; NaN, infinite and masked numbers become None.
    """
    import msgspec

    try:
        encoded = msgspec.json.encode(value, enc_hook=plain)
        return msgspec.json.decode(encoded) if len(encoded) <= MOST_KEPT else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def plain(value: Any) -> object:
    """A number or string of NumPy's, or of a derived class, as one of Python's.

    A masked number of NumPy's becomes None. Raises TypeError for other values.
    """
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        if getattr(value, "mask", False):
            return None
        item: object = value.item()
        if isinstance(item, int | float | str):
            return item
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    raise TypeError(type(value).__name__)


def row_of(value: object, task: str) -> dict[str, Scalar]:
    """The columns of a task's value: the keys of a dictionary, or ``value`` for any other value.

    Raises `BadValues` for a cell that is neither a number, a string, a Boolean nor None.
    """
    kept = as_json(value)
    if kept is None and value is not None and not isinstance(value, float):
        raise BadValues(task, f"its value has the type {type(value).__name__}")
    named: Mapping[str, Any] = kept if isinstance(kept, dict) else {"value": kept}
    if len(named) > MOST_COLUMNS:
        raise BadValues(task, f"it has {len(named)} values, more than {MOST_COLUMNS}")
    for name, one in named.items():
        check_scalar(one, name, task)
    return dict(named)


def rounded(value: Any) -> Any:
    """A task's value to be shown: numbers, alone or in a dictionary, have at most nine digits."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return _rounded(value)


def _rounded(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, float) else value


def check_scalar(value: object, name: str, task: str) -> None:
    """Raise `BadValues` if a value cannot be in a cell."""
    if value is not None and not isinstance(value, str | int | float):
        kind = {"list": "a list", "dict": "a table"}.get(kind := type(value).__name__, f"a {kind}")
        raise BadValues(task, f"{name!r} is {kind}")
    if "\0" in f"{name}{value}":
        raise BadValues(task, f"{name!r} contains a null byte, which is not allowed in values")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        why = f"{name!r} is a string of {len(value)} characters, more than {LONGEST_TEXT}"
        raise BadValues(task, why)
