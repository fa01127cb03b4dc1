"""Checks of what users give to services: each refusal names the argument and the value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from encamp.errors import BadJob, WrongType


def items(what: str, given: Any, meant: str) -> list[Any]:
    """The items of an iterable that is not a string or a mapping. Raises `WrongType`."""
    if isinstance(given, Mapping) or not can_be_iterated(given):
        raise WrongType(what, f"must be a list of {meant}, not {given!r}")
    return list(given)


def can_be_iterated(given: Any) -> bool:
    """Whether a value can be iterated and is not a string; takes no items."""
    if isinstance(given, str | bytes | bytearray):
        return False
    try:
        iter(given)
    except TypeError:
        return False
    return True


def texts(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """One string or several. Raises `WrongType`."""
    found = (given,) if isinstance(given, str) else tuple(items(what, given, "strings"))
    for one in found:
        if not isinstance(one, str):
            raise WrongType(what, f"must be strings, not {one!r}")
    return found


def named(what: str, given: Any) -> dict[str, Any]:
    """Values by names. Raises `WrongType`."""
    if not isinstance(given, Mapping):
        raise WrongType(what, f"must be a dict of names and values, not {given!r}")
    for name in given:
        check_name(what, name)
    return dict(given)


def check_name(what: str, name: object) -> None:
    """Raise `BadJob` for a name that cannot be that of a method or an attribute."""
    if not (isinstance(name, str) and name):
        raise BadJob(what, f"name a method or an attribute, such as 'update', not {name!r}")
