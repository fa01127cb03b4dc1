"""Numbers of bytes, times and counts as people write and read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_TOO_LARGE = 1e300
"""What numbers of any size have to be below to be divided."""


def parse_size(text: str) -> int | None:
    """Bytes of ``"20 GiB"``, ``"500M"`` or ``"1024"``; None if it is no size."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def size_text(size: float) -> str:
    """``"1.5 MiB"`` and the like."""
    size = size if size < _TOO_LARGE else math.inf
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def time_text(seconds: float) -> str:
    """``"1.5 s"`` and the like."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def joined(names: Iterable[str]) -> str:
    """``"a, b and c"``; each name once."""
    *rest, last = dict.fromkeys(names) or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def counted(number: int, one: str, many: str = "") -> str:
    """``"1 file"``, ``"2 files"`` and the like; ``many`` where the plural takes more than an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
