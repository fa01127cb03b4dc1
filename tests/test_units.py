"""Sizes, times and counts as people write and read them."""

from __future__ import annotations

import pytest

from encamp.units import counted, joined, parse_size, size_text, time_text

KIB, MIB, GIB, TIB = (1024**power for power in range(1, 5))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("500B", 500),
        ("20 GiB", 20 * GIB),
        ("1.5 kb", 1536),
        (" 3M ", 3 * MIB),
        ("2ti", None),
        ("2 TiB", 2 * TIB),
        ("-1", None),
        ("1e9", None),
        ("10 XB", None),
        ("", None),
        ("GiB", None),
        ("9" * 400, None),
        ("9" * 307 + " GiB", None),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (KIB - 1, "1023 B"),
        (KIB, "1.0 KiB"),
        (MIB - 52 * KIB, "972.0 KiB"),
        (MIB, "1.0 MiB"),
        (3 * MIB // 2, "1.5 MiB"),
        (GIB, "1.0 GiB"),
        (TIB, "1.0 TiB"),
        (2000 * TIB, "2000.0 TiB"),
        (10**400, "inf TiB"),
    ],
)
def test_size_uses_largest_fitting_unit(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (1, "1.0 s"),
        (119.5, "119.5 s"),
        (120, "2.0 min"),
        (5400, "90.0 min"),
    ],
)
def test_time_uses_suitable_unit(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_names_are_joined_each_once() -> None:
    assert joined([]) == ""
    assert joined(["a", "a"]) == "a"
    assert joined(["a", "b", "a"]) == "a and b"
    assert joined(iter(["a", "b", "c", "b"])) == "a, b and c"


def test_only_one_is_singular() -> None:
    numbers = (0, 1, 2)
    assert [counted(number, "file") for number in numbers] == ["0 files", "1 file", "2 files"]
    assert [counted(number, "entry", "entries") for number in numbers] == [
        "0 entries",
        "1 entry",
        "2 entries",
    ]
