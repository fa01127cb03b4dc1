"""What the PVM engine costs: messages beside bare libpvm, tasks beside new interpreters, memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compute import Wanted
from benchmarks.peers.launch import Program, measured, measured_in_turn
from benchmarks.timing import Figure, amount

_OURS = "benchmarks.ours"


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    rounds: int = 5
    share: float = 1.0
    """Of the usual number of tasks and messages in a program."""
    updates: int = 100_000


def figures(_: Path, sizes: Sizes | None = None) -> Iterator[Figure]:
    """The figures of the PVM engine; none where there is no PVM."""
    if shutil.which("pvmd") is None:
        return
    os.environ.setdefault("PVM_ALLOW_ROOT", "1")
    sizes = sizes or Sizes()
    yield from _messages(sizes)
    yield _tasks(sizes)
    yield _memory(sizes)


def _messages(sizes: Sizes) -> Iterator[Figure]:
    sides = {"encamp": Program("messages_pvm", _OURS), "libpvm": Program("libpvm_plain")}
    rounds = measured_in_turn(sides, sizes.rounds, sizes.share)
    what = "round trip, pvm inline, to bare libpvm, direct route"
    yield Wanted(what, "round_trip_us", "encamp", ("libpvm",), at_most=1.5).figure(rounds)
    what = "10 MB arrays, pvm inline, to bare libpvm, direct route"
    yield Wanted(what, "array_mb_per_s", "encamp", ("libpvm",)).figure(rounds)


def _tasks(sizes: Sizes) -> Figure:
    hows = ("kept", "fresh")
    sides = {how: Program("tasks_pvm", _OURS, arguments=(how,)) for how in hows}
    rounds = measured_in_turn(sides, sizes.rounds, sizes.share)
    what = "tasks in slots, pvm, to a fresh interpreter for each"
    return Wanted(what, "submit_per_s", "kept", ("fresh",), at_least=100).figure(rounds)


def _memory(sizes: Sizes) -> Figure:
    program = Program("status_pvm", _OURS, arguments=(str(sizes.updates),))
    grown = measured(program)["grown"] / (1 << 20)
    how = f"{sizes.updates:,} times hosts, free slots and PVM's own list"
    return amount("memory that status updates leave, pvm", grown, "MiB", at_most=0.5, how=how)
