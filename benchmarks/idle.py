"""How much of a core a cluster takes while nothing is to be done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from benchmarks.peers.launch import Program, started
from benchmarks.timing import Figure, amount

_SETTLE = 0.5
"""Seconds after the last task in which everybody comes to rest, and before the end."""


def idle(mpis: tuple[str, ...], seconds: float) -> Iterator[Figure]:
    """Shares of a core, of the busiest process of a cluster that waits."""
    share, how = _idle("local", None, seconds)
    what = "CPU of the busiest of program and slots that wait, local"
    yield amount(what, share, "% of a core", at_most=0.0, how=how)
    for mpi in mpis:
        share, how = _idle("mpi", mpi, seconds)
        what = f"CPU of the busiest of ranks and slots that wait, {mpi}"
        yield amount(what, share, "% of a core", at_most=2.0, how=how)


def _idle(engine: str, mpi: str | None, seconds: float) -> tuple[float, str]:
    arguments = (engine, str(seconds + 2 * _SETTLE))
    program = Program("waiting", "benchmarks.ours", ranks=3, arguments=arguments)
    with started(program, mpi) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        time.sleep(_SETTLE)
        before, start = [_cpu(pid) for pid in pids], time.perf_counter()
        time.sleep(seconds)
        after, passed = [_cpu(pid) for pid in pids], time.perf_counter() - start
    shares = [(b - a) / passed * 100 for a, b in zip(before, after, strict=True)]
    return max(shares), f"{len(pids)} processes, {seconds:g} s, together {sum(shares):.2f} %"


def _cpu(pid: int) -> float:
    """Seconds of processor that a process has had, by its own clock (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)
