"""The result of a check of ``encamp doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encamp.errors import EncampError, reason, shortened

Level = Literal["ok", "note", "fails"]
"""``note``: it works, but more slowly or less safely than it could."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check, and a remedy unless it is ``ok``."""

    level: Level
    what: str
    found: str
    remedy: str = ""


def why_of(exc: BaseException) -> str:
    """The message of an error, with its type unless it is encamp's."""
    return shortened(str(exc)) if isinstance(exc, EncampError) else reason(exc)
