"""The facts of a report as JSON; odd names and values never break it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import msgspec

from encamp.reports import TaskReport

_DEEPEST = 64
_LONG = 4096
"""Bits of a number that Python may refuse to write in decimal."""


def with_json_value(task: TaskReport) -> TaskReport:
    """A task with its value in JSON's own types, even if msgspec rejects or changes the value.

    Reports of a run have such values already.
    """
    return task if task.value is None else replace(task, value=json_value(task.value))


def facts_json(value: Any) -> bytes:
    """The facts of a report as JSON; `json_value` only if they contain something odd."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return msgspec.json.encode(json_value(value))


def json_value(value: Any, above: tuple[int, ...] = ()) -> Any:
    """``value`` in JSON's own types: dataclasses as objects, undecodable text escaped."""
    if value is None or isinstance(value, bool | msgspec.Raw):
        return value
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        # Python refuses to write much longer numbers in decimal.
        return int(value) if value.bit_length() < _LONG else hex(value)
    if id(value) in above or len(above) > _DEEPEST:
        return "…"
    return _json_parts(value, (*above, id(value)))


def _json_parts(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, list | tuple):
        return [json_value(item, above) for item in value]
    if isinstance(value, dict):
        return {_escaped(str(key)): json_value(item, above) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        named = ((item.name, getattr(value, item.name, None)) for item in fields(value))
        return {name: json_value(part, above) for name, part in named}
    return _escaped(f"<{type(value).__name__}>")


def _escaped(text: str) -> str:
    """``text`` with undecodable bytes as ``\\xff``; lines and other control characters stay."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")
