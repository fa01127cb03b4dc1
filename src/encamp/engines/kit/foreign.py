"""Environment variables by which MPI and PVM recognize the processes that they have started."""

from __future__ import annotations

_BEGINNINGS = (
    "PMI", "PMIX_", "HYDI_", "HYDRA_", "MPIR_", "OMPI_", "PRTE_", "OPAL_", "MPI_LOCAL",
    "PVMSOCK", "PVMEPID", "PVMTMASK", "PVMCTX", "PVMTRC", "PVMSPAWNWD",
)  # fmt: skip
"""Others of PVM's, which begin with ``PVM_``, are settings, which steps that use it need."""


def foreign(name: str) -> bool:
    """Whether a variable makes a process believe it were an MPI rank or a PVM task."""
    return name.startswith(_BEGINNINGS)
