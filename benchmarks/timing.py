"""Timing two ways of doing the same thing in turn, so that a noisy machine is noisy to both."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

Action = Callable[[], object]

_LEAST = 1e-6
"""Seconds; what takes less is not told from nothing."""


def nothing() -> None:
    """For a side that needs nothing before or after."""


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of processors' time, also that of commands."""

    seconds: float
    cpu: float

    @staticmethod
    def so_far() -> Cost:
        """Since some moment in the past."""
        uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return Cost(time.perf_counter(), sum(use.ru_utime + use.ru_stime for use in uses))


@dataclass(frozen=True)
class Side:
    """One way of doing it; ``before`` and ``after`` prepare and clean up, untimed."""

    action: Action
    before: Action = nothing
    after: Action = nothing

    def cost(self) -> Cost:
        """Do it once; what was written before is on the disk when the clock starts."""
        self.before()
        gc.collect()
        os.sync()
        start = Cost.so_far()
        self.action()
        end = Cost.so_far()
        self.after()
        return Cost(end.seconds - start.seconds, end.cpu - start.cpu)


@dataclass(frozen=True)
class Figure:
    """What was measured, in ``unit``, with what it was asked to be and where that comes from."""

    what: str
    value: float
    unit: str
    wanted: str
    holds: bool
    how: str

    def line(self) -> str:
        """The figure as a line of a table."""
        mark = "ok  " if self.holds else "MISS"
        value = f"{self.value:.2f} {self.unit}"
        return f"{mark} {self.what:<62} {value:>12}  ({self.wanted}; {self.how})"


def compare(
    what: str,
    ours: Side,
    peers: Side,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    runs: int = 5,
) -> Figure:
    """Time ``ours`` and ``peers`` in turn, ``runs`` times after one to warm up, the order changing.

    With ``at_most`` the ratio is ours to the peer's time; with ``at_least`` how many times faster
    ours is. The ratio is the median of all pairs', so that a machine that slows down for a while
    does not tell; the ratio of processors' times says more where others use it.
    """
    pairs = [_pair(ours, peers, swap=number % 2 == 0) for number in range(runs + 1)][1:]
    ratio = _more if at_least is None else _less
    mine, theirs = (_median(costs) for costs in zip(*pairs, strict=True))
    spread = sorted(ratio(a.seconds, b.seconds) for a, b in pairs)
    value = statistics.median(spread)
    how = (
        f"{_time(mine.seconds)} to {_time(theirs.seconds)}; {runs} pairs {spread[0]:.2f} to "
        f"{spread[-1]:.2f}; CPU {ratio(mine.cpu, theirs.cpu):.2f}"
    )
    if at_least is not None:
        return Figure(what, value, "x", f"≥ {at_least} x", value >= at_least, how)
    limit = at_most or 0.0
    return Figure(what, value, "x", f"≤ {limit} x", value <= limit, how)


def _pair(ours: Side, peers: Side, *, swap: bool) -> tuple[Cost, Cost]:
    if swap:
        theirs = peers.cost()
        return ours.cost(), theirs
    return ours.cost(), peers.cost()


def _median(costs: Sequence[Cost]) -> Cost:
    seconds, cpu = (statistics.median(times) for times in zip(*map(astuple, costs), strict=True))
    return Cost(seconds, cpu)


def _more(mine: float, theirs: float) -> float:
    return mine / max(theirs, _LEAST)


def _less(mine: float, theirs: float) -> float:
    return theirs / max(mine, _LEAST)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def compared(
    what: str,
    pairs: Sequence[tuple[float, float]],
    unit: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    more: str = "",
) -> Figure:
    """The median of the ratios of ours to the peer's, each pair measured in one round."""
    spread = sorted(mine / theirs for mine, theirs in pairs)
    value = statistics.median(spread)
    mine, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    how = (
        f"{mine:,.4g} to {theirs:,.4g}{unit and f' {unit}'}; {len(pairs)} pairs "
        f"{spread[0]:.2f} to {spread[-1]:.2f}{more}"
    )
    if at_least is not None:
        return Figure(what, value, "x", f"≥ {at_least:g} x", value >= at_least, how)
    if at_most is not None:
        return Figure(what, value, "x", f"≤ {at_most:g} x", value <= at_most, how)
    return Figure(what, value, "x", "no limit", True, how)


def amount(what: str, value: float, unit: str, *, at_most: float, how: str = "counted") -> Figure:
    """A figure that is counted or bounded, not compared."""
    return Figure(what, value, unit, f"≤ {at_most} {unit}", value <= at_most, how)


def median_of(what: str, times: list[float], *, at_most: float) -> Figure:
    """The median of ``times`` in seconds, which is to be at most ``at_most`` milliseconds."""
    ordered = sorted(seconds * 1e3 for seconds in times)
    late = ordered[int(len(ordered) * 0.99)]
    how = f"median of {len(ordered)}; 99 % within {late:.3g} ms"
    return amount(what, statistics.median(ordered), "ms", at_most=at_most, how=how)
