"""Environment variables that MPI and PVM use to recognize the processes that they have started."""

from __future__ import annotations

_BEGINNINGS = (
    "PMI", "PMIX_", "HYDI_", "HYDRA_", "MPIR_", "OMPI_", "PRTE_", "OPAL_", "MPI_LOCAL",
    "PVMSOCK", "PVMEPID", "PVMTMASK", "PVMCTX", "PVMTRC", "PVMSPAWNWD",
)  # fmt: skip
"""Other variables of PVM, which begin with ``PVM_``, are settings that steps with PVM need."""


def not_inherited(name: str) -> bool:
    """Whether a variable makes a process believe that it is an MPI rank or a PVM task."""
    return name.startswith(_BEGINNINGS)
