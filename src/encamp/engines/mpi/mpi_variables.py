"""Environment variables that set up MPIs, and that describe their job to ranks."""

from __future__ import annotations

import re

SHARED_MEMORY = {"UCX_TLS": "posix,sysv,cma,self", "OMPI_MCA_btl": "self,sm"}
"""Makes ranks on one host communicate without a network, so that they listen on no address."""
HOME = "ENCAMP_MPI_HOME"
"""Environment variable of a job's ranks with the path of the controller's socket."""
KEY_FILE = "k"
"""The file with the key, beside that socket: a launcher may show its variables to anybody."""

CONTROLLER = "ENCAMP_MPI_CONTROLLER"
"""Environment variable with the address of the controller's host for other hosts."""
IFACES = ("FI_TCP_IFACE", "FI_SOCKETS_IFACE")
"""Variable with OFI's interface: by default the first, which other hosts might not reach."""
DEFAULTS = "ENCAMP_MPI_DEFAULTS"
"""Environment variable that carries the latter, as JSON."""
KEPT_BACK = "e"
"""The file beside the key with variables that hydra must not get, for ranks on this host."""


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
