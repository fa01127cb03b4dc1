"""The lanes of a timeline, and the lane in which each attempt of a run is drawn.

A lane shows one attempt at a time of a worker. For a million attempts only the numbers of their
lanes are kept.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from encamp.model import AttemptReport, JobReport, State

MOST_LANES = 96
"""With more workers than this, workers that ran one after the other share a lane."""
RAN: tuple[State, ...] = ("waiting", "running", "done", "failed", "blocked", "to do")
"""All states except "up to date", as the attempts of such a task are of an earlier run."""
_CLOCK_NOISE = 1e-6
"""Seconds by which an attempt may seem to start before the one before it has ended."""


@dataclass(frozen=True)
class Lane:
    """A line of bars that do not overlap: one attempt at a time of a worker.

    ``slot`` numbers the lanes of a worker that runs several at once, otherwise it is None.
    ``worker`` is None if a lane joins workers of its host.
    """

    host: str | None
    worker: str | None
    slot: int | None = None


class Lanes:
    """The attempts of a run in lanes of their workers; in several if they overlap.

    Slots' processes are not lanes: they are replaced after a kill, and may serve several workers.
    """

    def __init__(self, report: JobReport) -> None:
        self.lanes: list[Lane] = []
        self.tries = array("L")
        """The number of attempts of each task in this run."""
        self.began = report.started
        """The start of the first attempt, or of the run."""
        self._report = report
        self._numbers = array("L")
        """The lane of each attempt, in the order of tasks and attempts."""
        self._place(_grouped(self._spans()))

    def of(self, task: int) -> list[int]:
        """The lanes of the attempts of task number ``at`` in the report."""
        if not hasattr(self, "_starts"):
            self._starts = array("L", accumulate(self.tries, initial=0))
        return list(self._numbers[self._starts[task] : self._starts[task + 1]])

    def _spans(self) -> Iterator[tuple[Lane, float, float]]:
        tasks = self._report.of_state(*RAN)
        for state in self._report.states():
            attempts = () if state == "up to date" else next(tasks).attempts
            self.tries.append(len(attempts))
            for attempt in attempts:
                start, end = times(attempt)
                self.began = min(self.began, start)
                yield _lane(attempt), start, end

    def _place(self, groups: dict[Lane, _Group]) -> None:
        self._numbers = array("L", bytes(self._numbers.itemsize * sum(self.tries)))
        for lane, group in sorted(groups.items(), key=lambda item: _natural(item[0])):
            first, count = len(self.lanes), 0
            for at, row in group.rows():
                self._numbers[at] = first + row
                count = max(count, row + 1)
            several = [replace(lane, slot=row) for row in range(1, count + 1)]
            self.lanes += several if count > 1 else [lane]


class _Group:
    """The attempts of one worker: their numbers, and when they were."""

    def __init__(self) -> None:
        self.at, self.starts, self.ends = array("L"), array("d"), array("d")

    def add(self, at: int, start: float, end: float) -> None:
        self.at.append(at)
        self.starts.append(start)
        self.ends.append(end)

    def rows(self) -> Iterator[tuple[int, int]]:
        """Each attempt's number, and the first row that is free when it starts."""
        free: list[float] = []
        for n in sorted(range(len(self.at)), key=lambda n: (self.starts[n], self.ends[n])):
            start, end = self.starts[n], self.ends[n]
            row = next(
                (k for k, busy in enumerate(free) if busy <= start + _CLOCK_NOISE), len(free)
            )
            free[row : row + 1] = [end]
            yield self.at[n], row


def _grouped(spans: Iterator[tuple[Lane, float, float]]) -> dict[Lane, _Group]:
    """The attempts by worker; by host where that would be too many lanes."""
    groups: dict[Lane, _Group] = defaultdict(_Group)
    for at, (lane, start, end) in enumerate(spans):
        groups[lane].add(at, start, end)
    if len(groups) <= MOST_LANES:
        return groups
    hosts: dict[Lane, _Group] = defaultdict(_Group)
    for lane, group in groups.items():
        host = hosts[replace(lane, worker=None)]
        for at, start, end in zip(group.at, group.starts, group.ends, strict=True):
            host.add(at, start, end)
    return hosts


def _lane(attempt: AttemptReport) -> Lane:
    if (where := attempt.where) is None:
        return Lane(None, None)
    return Lane(where.host, where.worker)


def times(attempt: AttemptReport) -> tuple[float, float]:
    """Start and end of an attempt; both the time of its submission if it has no phases."""
    if not attempt.phases:
        return attempt.submitted, attempt.submitted
    return (
        min([phase.start for phase in attempt.phases]),
        max([phase.start + phase.seconds for phase in attempt.phases]),
    )


def _natural(lane: Lane) -> tuple[Any, ...]:
    """Sort key: ``node-2`` before ``node-10``; attempts without a host last."""
    return (lane.host is None, *(_in_parts(text) for text in (lane.host, lane.worker)))


def _in_parts(text: str | None) -> list[tuple[int, str]]:
    words = re.findall(r"[0-9]{1,18}|[^0-9]+", text or "")
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
