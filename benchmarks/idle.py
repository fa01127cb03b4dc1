"""How much of a core a cluster takes while nothing is to be done."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

from benchmarks.peers.launch import Program, started
from benchmarks.timing import Figure, amount

_SETTLE = 0.3
"""Seconds after the last task in which everybody comes to rest."""


def idle(mpis: tuple[str, ...], seconds: float) -> Iterator[Figure]:
    """Shares of a core, of the busiest process of a cluster that waits."""
    share, count = _idle(Program("waiting", "benchmarks.ours", arguments=("local",)), None, seconds)
    what = "CPU of the busiest of program and slots that wait, local"
    yield _figure(what, share, 0.0, count, seconds)
    for mpi in mpis:
        program = Program("waiting", "benchmarks.ours", ranks=3, arguments=("mpi",))
        share, count = _idle(program, mpi, seconds)
        what = f"CPU of the busiest of ranks and slots that wait, {mpi}"
        yield _figure(what, share, 2.0, count, seconds)


def _figure(what: str, share: float, at_most: float, count: int, seconds: float) -> Figure:
    how = f"{count} processes, {seconds:g} s"
    return amount(what, share * 100, "% of a core", at_most=at_most, how=how)


def _idle(program: Program, mpi: str | None, seconds: float) -> tuple[float, int]:
    with started(program, mpi, stdin=subprocess.PIPE) as process:
        pids = json.loads(process.stdout.readline())
        time.sleep(_SETTLE)
        before, start = [_cpu(pid) for pid in pids], time.perf_counter()
        time.sleep(seconds)
        after, passed = [_cpu(pid) for pid in pids], time.perf_counter() - start
        process.communicate(timeout=60)
    return max(b - a for a, b in zip(before, after, strict=True)) / passed, len(pids)


def _cpu(pid: int) -> float:
    """Seconds of processor that a process has had, by its own clock (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)
