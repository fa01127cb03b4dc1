"""The MPIs that tests use, and what their jobs must not leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from conftest import need
from encamp.engines.mpi.find_launcher import Launcher, find_launcher
from encamp.engines.mpi.launch_plan import LaunchPlan
from encamp.errors import EngineUnavailable

FOLDER = str(Path(__file__).parent)
MPIS = ("openmpi", "mpich")


def launcher_of(mpi: str) -> Launcher:
    """The launcher of an MPI; the test is skipped where there is none."""
    need("mpi4py", (Path(psutil.__file__).parents[1] / "mpi4py").exists())
    try:
        return find_launcher(mpi=mpi)
    except EngineUnavailable:
        need(mpi, False)
        raise


def mpirun(
    launcher: Launcher, ranks: int, *program: str, library: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python program with a launcher, as its user would."""
    flags = LaunchPlan(launcher, ranks, (), "", ())._open_mpi_flags()
    libraries = {} if launcher.library is None else {"MPI4PY_LIBMPI": library or launcher.library}
    return subprocess.run(
        [
            launcher.path,
            *(flags if launcher.mpi == "openmpi" else ()),
            *("-n", str(ranks), sys.executable, *program),
        ],
        env={**os.environ, **libraries, "OMPI_MCA_btl": "^ofi"},
        capture_output=True,
        text=True,
        timeout=60,
    )
