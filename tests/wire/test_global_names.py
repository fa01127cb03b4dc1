"""The global variables of a function, without attributes, methods and imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encamp.wire.global_names import global_names

A = B = x = y = 0


def _reads(points: Any) -> Any:
    import json

    return A + points.x + points.mean() + json.y  # type: ignore[attr-defined]


def _inner() -> Any:
    def inner() -> int:
        return B

    return inner


def _in_a_class() -> type:
    class Body:
        x = A

        def y(self) -> int:
            return B

    return Body


def _changes() -> None:
    global x
    x += 1


def _sets() -> None:
    global x
    x = 1


def _in_a_comprehension() -> list[int]:
    return [A + len(name) for name in ("a", "b")]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (_reads, {"A"}),
        (_inner, {"B"}),
        (_in_a_class, {"A", "B", "__name__"}),
        (_changes, {"x"}),
        (_sets, set()),
        (_in_a_comprehension, {"A", "len"}),
        (lambda points: points.A, set()),
    ],
)
def test_only_variables_count(function: Callable[..., Any], names: set[str]) -> None:
    assert set(global_names(function.__code__)) - {"__classdict__"} == names
