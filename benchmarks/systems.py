"""What encamp costs on Dask and ipyparallel, beside their own tasks and messages."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.compute import Wanted
from benchmarks.peers.launch import Program, measured_in_turn
from benchmarks.timing import Figure, amount

_OURS = "benchmarks.ours"


@dataclass(frozen=True)
class System:
    """One of them, by its package, and how many times as many tasks we are to do."""

    name: str
    package: str
    program: str
    tasks: float
    by: str


SYSTEMS = (
    System("dask", "distributed", "dask_client", 30, "client.submit"),
    System("ipyparallel", "ipyparallel", "ipyparallel_client", 50, "a load-balanced view"),
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    rounds: int = 3
    share: float = 1.0
    """Of the usual number of tasks and messages in a program."""


def figures(_: Path, sizes: Sizes | None = None) -> Iterator[Figure]:
    """The figures of each system that is installed."""
    for system in SYSTEMS:
        if find_spec(system.package) is not None:
            yield from _figures(system, sizes or Sizes())


def _figures(system: System, sizes: Sizes) -> Iterator[Figure]:
    sides = {
        "encamp": Program("on_a_system", _OURS, arguments=(system.name,)),
        system.name: Program(system.program),
    }
    rounds = measured_in_turn(sides, sizes.rounds, sizes.share)
    peers = (system.name,)
    what = f"tasks, {system.name}, to {system.by}"
    yield Wanted(what, "submit_per_s", "encamp", peers, at_least=system.tasks).figure(rounds)
    what = f"round trip, {system.name}, to its quickest call"
    yield Wanted(what, "round_trip_us", "encamp", peers, at_most=1.0).figure(rounds)
    what = f"10 MB arrays, {system.name}, to its quickest call"
    yield Wanted(what, "array_mb_per_s", "encamp", peers, at_least=0.8).figure(rounds)
    start = statistics.median(one["encamp"]["start"] for one in rounds)
    what = f"start on a running cluster, {system.name}, to a Python with our imports"
    yield amount(what, start, "x", at_most=6, how=f"median of {len(rounds)}")
