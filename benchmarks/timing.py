"""Timing two ways of doing the same thing in turn, so that a noisy machine is noisy to both."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Action = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """A ratio of medians, with what it was asked to be."""

    what: str
    ratio: float
    wanted: str
    holds: bool
    ours: float
    peers: float
    spread: str

    def line(self) -> str:
        """The figure as a line of a table."""
        mark = "ok  " if self.holds else "MISS"
        return f"{mark} {self.what:<62} {self.ratio:8.2f}  ({self.wanted}; pairs {self.spread})"


def compare(
    what: str,
    ours: Action,
    peers: Action,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    after: Action = lambda: None,
    runs: int = 5,
) -> Figure:
    """Time ``ours`` and ``peers`` in turn; ``after`` cleans up after each, untimed.

    With ``at_most`` the ratio is ours to the peer's time; with ``at_least`` how many times faster
    ours is.
    """
    pairs = [(_timed(ours, after), _timed(peers, after)) for _ in range(runs + 1)][1:]
    mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    if at_least is not None:
        ratios, ratio = sorted(b / a for a, b in pairs), theirs / mine
        return Figure(
            what, ratio, f"≥ {at_least} x", ratio >= at_least, mine, theirs, _spread(ratios)
        )
    limit = at_most or 0.0
    ratios, ratio = sorted(a / b for a, b in pairs), mine / theirs
    return Figure(what, ratio, f"≤ {limit} x", ratio <= limit, mine, theirs, _spread(ratios))


def _spread(ratios: list[float]) -> str:
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"


def _timed(action: Action, after: Action) -> float:
    os.sync()
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    after()
    return seconds


def amount(what: str, value: float, unit: str, *, at_most: float) -> Figure:
    """A figure that is counted or bounded, not compared."""
    return Figure(
        f"{what} [{unit}]", value, f"≤ {at_most}", value <= at_most, value, 0.0, "counted"
    )
