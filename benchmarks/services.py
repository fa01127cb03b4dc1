"""What calls of services cost beside other remote objects: actors of Ray and Dask, Pyro5, managers.

Every side is a program of its own. They run in turn, round by round, and are compared within a
round; the figure is the median of all rounds' ratios.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.installed import PYRO5, RAY, installed
from benchmarks.peers.launch import Program, Round, measured_in_turn
from benchmarks.timing import Figure, compared

_OURS = Program("services", "benchmarks.ours")
_MANAGERS = Program("multiprocessing_managers")
_PYRO5 = Program("pyro5_objects", packages=PYRO5)
_RAY = Program("ray_actors", packages=RAY)
_DASK = Program("dask_actors")
_ON_DASK = Program("services_on_dask", "benchmarks.ours")


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    rounds: int = 3
    share: float = 1.0
    peers: tuple[Program, ...] = (_MANAGERS, _PYRO5, _RAY, _DASK)


@dataclass(frozen=True)
class Wanted:
    """``ours`` to the peer's ``theirs``: how many times as many."""

    what: str
    peer: Program
    ours: str
    theirs: str
    at_least: float | None = None
    program: Program = _OURS


_WANTED = (
    Wanted("calls, to managers", _MANAGERS, "calls_per_s", "calls_per_s"),
    Wanted("calls, to Pyro5", _PYRO5, "calls_per_s", "calls_per_s", 2),
    Wanted("calls, to Ray's actors", _RAY, "calls_per_s", "calls_per_s", 1.5),
    Wanted("calls on Dask, to its actors", _DASK, "calls_per_s", "calls_per_s", 3, _ON_DASK),
    Wanted("calls sent ahead, to Pyro5's calls", _PYRO5, "ahead_per_s", "calls_per_s", 10),
    Wanted("calls sent ahead, to a batch of Pyro5", _PYRO5, "ahead_per_s", "ahead_per_s", 1),
    Wanted("calls sent ahead, to Ray's actors", _RAY, "ahead_per_s", "ahead_per_s", 2),
    Wanted("acquire, call, release, to Pyro5's calls", _PYRO5, "acquired_per_s", "calls_per_s", 1),
    Wanted("10 MB arrays, to managers", _MANAGERS, "array_mb_per_s", "array_mb_per_s", 1),
    Wanted("10 MB arrays, to Ray", _RAY, "array_mb_per_s", "array_mb_per_s", 1),
    Wanted("replica exchange of 8, to Ray", _RAY, "exchanges_per_s", "exchanges_per_s", 3),
)


def figures(_: Path, sizes: Sizes | None = None) -> Iterator[Figure]:
    """The figures of services; those of a peer that cannot be had say so."""
    sizes = sizes or Sizes()
    peers = [peer for peer in sizes.peers if _is_there(peer)]
    ours = {one.program.module: one.program for one in _WANTED if one.peer in peers}
    programs = {_OURS.module: _OURS, **ours, **{one.module: one for one in peers}}
    rounds = measured_in_turn(programs, sizes.rounds, sizes.share)
    for wanted in _WANTED:
        if wanted.peer in peers:
            yield _figure(wanted, rounds)
        elif wanted.peer in sizes.peers:
            yield Figure(wanted.what, 0, "x", "no limit", True, "this peer cannot be had here")
    found = [r[_OURS.module] for r in rounds]
    ratios = sorted(one["broadcast_us"] / one["call_us"] for one in found)
    value = statistics.median(ratios)
    how = f"{found[0]['broadcast_us']:.0f} to {found[0]['call_us']:.0f} µs"
    yield Figure("broadcast to 8 servers, to one call", value, "x", "≤ 2 x", value <= 2, how)


def _is_there(peer: Program) -> bool:
    if peer is _DASK:
        return find_spec("distributed") is not None
    try:
        return not peer.packages or bool(installed(peer.packages))
    except subprocess.CalledProcessError:
        return False


def _figure(wanted: Wanted, rounds: Sequence[Round]) -> Figure:
    sides = [(r[wanted.program.module], r[wanted.peer.module]) for r in rounds]
    pairs = [(ours[wanted.ours], theirs[wanted.theirs]) for ours, theirs in sides]
    return compared(wanted.what, pairs, at_least=wanted.at_least)
