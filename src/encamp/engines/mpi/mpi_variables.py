"""Environment variables that set up MPIs, and that describe their job to ranks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

# What a launcher gives its ranks

HYDRA_RANK = "PMI_RANK"
"""Hydra's variable with the number of the rank."""
RANK = (HYDRA_RANK, "OMPI_COMM_WORLD_RANK")
"""Variables in which launchers give the number of the rank."""
RANKS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Variables in which launchers give the number of ranks."""
PMIX_RANK, RANKS_OF_SLURM = "PMIX_RANK", ("SLURM_STEP_NUM_TASKS",)
"""The same for Slurm's ``srun --mpi=pmix``: whether this is a rank, and the number of ranks."""
RANKS_HERE = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
"""Variables in which some launchers give the number of ranks on this host."""
THREAD_LEVEL = "MPI4PY_RC_THREAD_LEVEL"
"""Variable in which users choose MPI's level of thread support."""

# What encamp gives the ranks of a job that it has launched

HOME = "ENCAMP_MPI_HOME"
"""Variable of a job's ranks with the path of the controller's socket."""
KEY_FILE = "k"
"""The file with the key, beside that socket: a launcher may show its variables to anybody."""
KEPT_BACK = "e"
"""The file beside the key with variables that hydra must not get, for ranks on this host."""
CONTROLLER = "ENCAMP_MPI_CONTROLLER"
"""Variable with the address of the controller's host for other hosts."""
DEFAULTS = "ENCAMP_MPI_DEFAULTS"
"""Variable that carries, as JSON, variables that ranks get unless their host sets them."""
LIBRARIES = "ENCAMP_MPI_LIBRARIES"
"""Variable with the program's folders of libraries."""
LIBRARIES_LEFT_OUT = "ENCAMP_MPI_LIBRARIES_LEFT_OUT"
"""Variable with those of them that are not used on a host."""

# Which variables of the controller get where

SENT_TO_HOSTS = (
    "MPI4PY_LIBMPI", LIBRARIES, "UCX_", "FI_", "MPIR_", "MPICH_", DEFAULTS, CONTROLLER,
)  # fmt: skip
"""Prefixes of variables that ranks on other hosts need from the start."""
DEFAULT_FOR_RANKS = "PARALLEL_"
"""Prefix of variables that ranks get unless their host sets them."""
NEEDED_BY_HYDRA = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "LC_", "LD_", "PYTHON", "TERM",
    "SSH_", "KRB5", "HYDRA_", "MPI", "I_MPI_", "UCX_", "FI_", "PMI", "SLURM", "PBS_", "LSB_", "LSF",
    "SGE_", "PE_", "JOB_", "COBALT_", "ENCAMP_MPI_",
)  # fmt: skip
"""Prefixes of variables that hydra, or an interpreter, needs to start."""

# How launchers reach hosts

REMOTE_SHELL = {
    "openmpi": ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent"),
    "mpich": ("HYDRA_LAUNCHER_EXEC",),
}
"""By MPI, variables with the name of the launcher's remote shell."""
BATCH_SYSTEMS = ("SLURM_JOB_ID", "PBS_NODEFILE", "LSB_JOBID", "PE_HOSTFILE", "COBALT_JOBID")
"""Variables of batch systems; with these, launchers may reach hosts without a remote shell."""

# How MPIs communicate

SHARED_MEMORY = {"UCX_TLS": "posix,sysv,cma,self", "OMPI_MCA_btl": "self,sm"}
"""Makes ranks on one host communicate without a network, so that they listen on no address."""
IFACES = ("FI_TCP_IFACE", "FI_SOCKETS_IFACE")
"""Variables with OFI's interface: by default the first, which other hosts might not reach."""
NETMOD = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
"""Makes MPICH use OFI in place of UCX, see `prefers_ucx`."""
PROVIDER = {"FI_PROVIDER": "^sockets"}
"""Makes OFI use any network but this deprecated one, MPICH's first choice on plain Ethernet: one
start in twenty hangs because two ranks connect to each other at the same time."""


def prefers_ucx(library: str) -> bool:
    """Whether an MPICH with this description uses UCX although it has OFI.

    With UCX, its receives from any source lose messages of other hosts (seen with 5.0).
    """
    device = re.search(r"MPICH Device:\s*ch4:ucx\b([^\n]*)", library)
    return device is not None and "ofi" in device[1]


def number_of_ranks() -> int:
    """How many ranks a launcher has started; 0 if this process is not a rank."""
    return count_of(RANKS) or (count_of(RANKS_OF_SLURM) if PMIX_RANK in os.environ else 0)


def count_of(names: Sequence[str]) -> int:
    """The number in the first of these variables that has one; 0 if none has."""
    values = [os.environ[name] for name in names if os.environ.get(name, "").isdecimal()]
    return int(values[0]) if values else 0


@contextmanager
def variables_set(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block, except those that are set already."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    yield
    forget_variables(tuple(new))


def forget_variables(beginnings: tuple[str, ...]) -> None:
    """Remove environment variables, so that no process that is started here inherits them."""
    for name in [name for name in os.environ if name.startswith(beginnings)]:
        del os.environ[name]
