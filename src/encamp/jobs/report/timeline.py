"""The lanes of a timeline, and the lane in which each attempt of a run is drawn.

A lane shows one attempt at a time of a worker. For a million attempts only the numbers of their
lanes are kept.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from encamp.job_status import State
from encamp.reports import AttemptReport, JobReport

MOST_LANES = 96
"""With more workers than this, workers that ran one after the other share a lane."""
RAN: tuple[State, ...] = ("waiting", "running", "done", "failed", "blocked", "to do")
"""All states except "up to date": the attempts of such a task are of an earlier run."""
_CLOCK_NOISE = 1e-6
"""Tolerance in seconds: an attempt may seem to start before the previous one has ended."""


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
        self.states: list[State] = list(report.states())
        self.tries = array("L")
        """The number of attempts of each task in this run."""
        self.wrong: list[int] = []
        """The positions of the tasks that failed or needed several attempts."""
        self.began = report.started
        """The start of the first attempt, or of the run."""
        workers = self._attempts(report)
        self._numbers = array("L", bytes(self.tries.itemsize * sum(self.tries)))
        """The lane of each attempt, in the order of tasks and attempts."""
        self._place(workers if len(workers) <= MOST_LANES else _by_host(workers))

    def of(self, task: int) -> list[int]:
        """The lanes of the attempts of task number ``task`` in the report."""
        if not hasattr(self, "_starts"):
            self._starts = array("L", accumulate(self.tries, initial=0))
        return list(self._numbers[self._starts[task] : self._starts[task + 1]])

    def _attempts(self, report: JobReport) -> dict[_Worker, _Attempts]:
        """The attempts of each worker; also records each task's number of attempts and failures."""
        workers: dict[_Worker, _Attempts] = defaultdict(_Attempts)
        ran, count = report.of_state(*RAN), 0
        for at, state in enumerate(self.states):
            attempts = () if state == "up to date" else next(ran).attempts
            self.tries.append(len(attempts))
            if state == "failed" or len(attempts) > 1:
                self.wrong.append(at)
            for number, attempt in enumerate(attempts, count):
                start, end = times(attempt)
                self.began = min(self.began, start)
                where = attempt.where
                own = workers[(None, None) if where is None else (where.host, where.worker)]
                own.numbers.append(number)
                own.starts.append(start)
                own.ends.append(end)
            count += len(attempts)
        return workers

    def _place(self, workers: dict[_Worker, _Attempts]) -> None:
        for host, worker in sorted(workers, key=_natural_key):
            first = len(self.lanes)
            free: list[float] = []
            for start, end, number in workers[host, worker].in_order():
                row = _first_free(free, start)
                free[row : row + 1] = [end]
                self._numbers[number] = first + row
            slots = range(1, len(free) + 1) if len(free) > 1 else [None]
            self.lanes += [Lane(host, worker, slot) for slot in slots]


_Worker = tuple[str | None, str | None]
"""Host and name of a worker; the name is None for all workers of a host."""


class _Attempts:
    """The attempts of one worker: their numbers, and when they were."""

    def __init__(self) -> None:
        self.numbers, self.starts, self.ends = array("L"), array("d"), array("d")

    def in_order(self) -> list[tuple[float, float, int]]:
        """Start, end and number of each, in the order in which they started."""
        return sorted(zip(self.starts, self.ends, self.numbers, strict=True))


def _by_host(workers: dict[_Worker, _Attempts]) -> dict[_Worker, _Attempts]:
    """The attempts of each host."""
    hosts: dict[_Worker, _Attempts] = defaultdict(_Attempts)
    for (name, _), attempts in workers.items():
        host = hosts[name, None]
        host.numbers += attempts.numbers
        host.starts += attempts.starts
        host.ends += attempts.ends
    return hosts


def _first_free(free: list[float], start: float) -> int:
    """The first row that is free at a time; ``free`` are the times from which each row is free."""
    row = 0
    while row < len(free) and free[row] > start + _CLOCK_NOISE:
        row += 1
    return row


def times(attempt: AttemptReport) -> tuple[float, float]:
    """Start and end of an attempt; both the time of its submission if it has no phases."""
    if not attempt.phases:
        return attempt.submitted, attempt.submitted
    start, end = math.inf, -math.inf
    for phase in attempt.phases:
        start, end = min(start, phase.start), max(end, phase.start + phase.seconds)
    return start, end


def _natural_key(worker: _Worker) -> tuple[Any, ...]:
    """Sort key: ``node-2`` before ``node-10``; attempts without a host last."""
    host, name = worker
    return host is None, _in_parts(host), _in_parts(name)


def _in_parts(text: str | None) -> list[tuple[int, str]]:
    words = re.findall(r"[0-9]{1,18}|[^0-9]+", text or "")
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
