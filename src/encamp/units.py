"""Numbers of bytes, times and counts as people write and read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_TIMES = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
TIMES = "write a number of seconds above 0, or a time such as '500 ms', '30 s', '5 min', '2 h'"
"""The forms of times, for messages."""
_TOO_LARGE = 1e300
"""Larger numbers cannot be divided as floats."""


def parse_size(text: str) -> int | None:
    """The bytes of a size such as ``"20 GiB"``, ``"500M"`` or ``"1024"``; None if it is not one."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    size = float(found[1]) * _SIZES[found[2].lower()] if found else math.inf
    return int(size) if math.isfinite(size) else None


def seconds_in(text: str) -> float | None:
    """The seconds of a time such as ``"5 min"``; None if it is not one."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h)\s*", text)
    return float(match[1]) * _TIMES[match[2]] if match else None


def size_text(size: float) -> str:
    """A number of bytes, such as ``"1.5 MiB"``."""
    size = size if size < _TOO_LARGE else math.inf
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def time_text(seconds: float) -> str:
    """A time, such as ``"1.5 s"``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def clock_text(seconds: float) -> str:
    """A time as clocks show it: ``"7 s"``, ``"1 min 05 s"``, ``"2 h 10 min"``."""
    whole = max(0, math.ceil(seconds - 0.5))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def joined(names: Iterable[str]) -> str:
    """A list such as ``"a, b and c"``, with each name once."""
    *rest, last = dict.fromkeys(names) or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def counted(number: int, one: str, many: str = "") -> str:
    """A count, such as ``"2 files"``; ``many`` is the plural if it is not formed with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
