"""What clusters and executors cost beside other pools, other ways to use MPI, and bare sockets.

Every side is a program of its own (`benchmarks.ours`, `benchmarks.peers`). They run in turn, round
by round, and are compared within a round; the figure is the median of all rounds' ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.idle import idle
from benchmarks.peers.launch import MPIS, Program, Round, measured, measured_in_turn
from benchmarks.timing import Figure, compared

_OURS = "benchmarks.ours"


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    rounds: int = 3
    message_rounds: int = 5
    share: float = 1.0
    """Of the usual number of tasks and messages in a program."""
    mpis: tuple[str, ...] = MPIS
    pyopus: bool = True
    """Whether to measure PyOPUS, which is downloaded for that."""
    idle: float = 4.0
    """Seconds of looking at clusters that wait."""


@dataclass(frozen=True)
class Wanted:
    """A figure of two sides: ``field`` of ours to the best of the peers'."""

    what: str
    field: str
    ours: str
    peers: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None

    def figure(self, rounds: Sequence[Round]) -> Figure:
        """The median of all rounds' ratios."""
        best = min if self.at_least is None else max
        pairs = [
            (r[self.ours][self.field], best(r[peer][self.field] for peer in self.peers))
            for r in rounds
        ]
        limits = {"at_least": self.at_least, "at_most": self.at_most}
        more = _chunks(self, rounds)
        return compared(self.what, pairs, _UNITS[self.field], **limits, more=more)


_UNITS = {
    "submit_per_s": "tasks/s",
    "map_per_s": "items/s",
    "round_trip_us": "µs",
    "job_us": "µs",
    "collected_us": "µs",
    "exchange_us": "µs",
    "array_mb_per_s": "MB/s",
    "start_s": "s",
    "close_s": "s",
}


def _chunks(wanted: Wanted, rounds: Sequence[Round]) -> str:
    if wanted.field != "map_per_s":
        return ""
    best = max(wanted.peers, key=lambda peer: statistics.median(_rates(rounds, peer)))
    sizes = [rounds[0][name]["map_chunk"] for name in (wanted.ours, best)]
    return f"; best in chunks of {sizes[0]} to {sizes[1]}, {best}"


def _rates(rounds: Sequence[Round], name: str) -> list[float]:
    return [r[name]["map_per_s"] for r in rounds]


def figures(_: Path, sizes: Sizes | None = None) -> Iterator[Figure]:
    """The figures of the compute plane but those of its controller."""
    sizes = sizes or Sizes()
    yield from _local_tasks(sizes)
    yield from _local_messages(sizes)
    for mpi in sizes.mpis:
        yield from _mpi_tasks(mpi, sizes)
        yield from _mpi_messages(mpi, sizes)
        if sizes.pyopus:
            yield from _dialect(mpi, sizes)
    yield from idle(sizes.mpis, sizes.idle)
    yield from _starting(sizes)


def _local_tasks(sizes: Sizes) -> Iterator[Figure]:
    ours, peers = "executor_local", ("loky_pool", "stdlib_pool", "multiprocessing_pool")
    programs = [Program(ours, _OURS), *map(Program, peers)]
    rounds = _rounds(programs, None, sizes.rounds, sizes.share)
    for peer, name in zip(peers, ("loky", "concurrent.futures"), strict=False):
        what = f"submit, local, to {name}"
        yield Wanted(what, "submit_per_s", ours, (peer,), at_least=5).figure(rounds)
    what = "map in chunks, local, to loky and concurrent.futures"
    yield Wanted(what, "map_per_s", ours, peers[:2], at_least=2).figure(rounds)
    for what, field in (("submit", "submit_per_s"), ("map in chunks", "map_per_s")):
        yield Wanted(f"{what}, local, to multiprocessing.Pool", field, ours, peers[2:]).figure(
            rounds
        )


def _local_messages(sizes: Sizes) -> Iterator[Figure]:
    ours, peers = "messages_local", ("socketpair",)
    programs = [Program(ours, _OURS), *map(Program, peers)]
    rounds = _rounds(programs, None, sizes.message_rounds, sizes.share)
    what = "round trip of two tasks, local, to a bare socketpair"
    yield Wanted(what, "round_trip_us", ours, peers, at_most=2).figure(rounds)
    what = "10 MB arrays of two tasks, local, to a bare socketpair"
    yield Wanted(what, "array_mb_per_s", ours, peers).figure(rounds)


def _mpi_tasks(mpi: str, sizes: Sizes) -> Iterator[Figure]:
    ours, futures = "executor_mpi", "mpi4py_futures"
    programs = [Program(ours, _OURS, ranks=3), Program(futures, ranks=3), *_pyopus(sizes)]
    rounds = _rounds(programs, mpi, sizes.rounds, sizes.share)
    if sizes.pyopus:
        what = f"submit, {mpi}, to PyOPUS dispatch"
        yield Wanted(what, "submit_per_s", ours, ("pyopus_dispatch",), at_least=2).figure(rounds)
    what = f"submit, {mpi}, to mpi4py.futures"
    yield Wanted(what, "submit_per_s", ours, (futures,), at_least=15).figure(rounds)
    what = f"map in chunks, {mpi}, to mpi4py.futures"
    yield Wanted(what, "map_per_s", ours, (futures,), at_least=2).figure(rounds)


def _mpi_messages(mpi: str, sizes: Sizes) -> Iterator[Figure]:
    ours, plain, pkl5 = "messages_mpi", "mpi4py_plain", "mpi4py_pkl5"
    peers = [Program(plain, ranks=2), Program(pkl5, ranks=2), *_pyopus(sizes, "messages")]
    programs = [Program(ours, _OURS, ranks=2), *peers]
    rounds = _rounds(programs, mpi, sizes.message_rounds, sizes.share)
    what = f"round trip, {mpi} inline, to mpi4py send and recv"
    yield Wanted(what, "round_trip_us", ours, (plain,), at_most=2).figure(rounds)
    what = f"10 MB arrays, {mpi} inline, to mpi4py.util.pkl5"
    yield Wanted(what, "array_mb_per_s", ours, (pkl5,), at_least=0.8).figure(rounds)
    if sizes.pyopus:
        what = f"10 MB arrays, {mpi} inline, to PyOPUS"
        peer = ("pyopus_dispatch",)
        yield Wanted(what, "array_mb_per_s", ours, peer, at_least=3).figure(rounds)


def _pyopus(sizes: Sizes, *what: str) -> list[Program]:
    """PyOPUS's program: tasks and messages, or only what is named."""
    program = Program("pyopus_dispatch", ranks=3, pyopus=True, arguments=what)
    return [program] * sizes.pyopus


def _dialect(mpi: str, sizes: Sizes) -> Iterator[Figure]:
    """The same program in PyOPUS's dialect, run by PyOPUS and by `encamp.compat.pyopus`."""
    theirs = Program("dialect", ranks=2, pyopus=True, arguments=("pyopus.parallel",))
    ours = Program("dialect", ranks=2, arguments=("encamp.compat.pyopus",))
    sides = {"encamp": ours, "PyOPUS": theirs}
    rounds = measured_in_turn(sides, sizes.rounds, sizes.share, mpi)
    for what, field, most in (
        ("dispatch of small jobs", "job_us", 1),
        ("dispatch of small jobs with a collector", "collected_us", 1),
        ("1 kB to a task and back", "exchange_us", 3),
    ):
        what = f"{what}, {mpi} -n 2, to PyOPUS"
        yield Wanted(what, field, "encamp", ("PyOPUS",), at_most=most).figure(rounds)


def _starting(sizes: Sizes) -> Iterator[Figure]:
    sides = {pool: Program("starting", _OURS, arguments=(pool,)) for pool in ("encamp", "stdlib")}
    rounds = [
        {pool: measured(program) for pool, program in sides.items()} for _ in range(sizes.rounds)
    ]
    for what, field in (("start to first results", "start_s"), ("close", "close_s")):
        what = f"{what}, local, to concurrent.futures"
        yield Wanted(what, field, "encamp", ("stdlib",)).figure(rounds)


def _rounds(programs: Sequence[Program], mpi: str | None, count: int, share: float) -> list[Round]:
    return measured_in_turn({program.module: program for program in programs}, count, share, mpi)
