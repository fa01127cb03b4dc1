"""Environment variables that MPI and PVM use to recognize the processes that they have started."""

from __future__ import annotations

OF_MPI_RANKS = ("PMI", "PMIX_", "HYDI_", "MPI_LOCAL", "MPIR_", "OMPI_", "OPAL_", "PRTE_")
"""Prefixes of variables that would make other programs believe that they are ranks."""
_OF_MPI_LAUNCHERS = ("HYDRA_",)
_OF_PVM_TASKS = ("PVMSOCK", "PVMEPID", "PVMTMASK", "PVMCTX", "PVMTRC", "PVMSPAWNWD")
"""Other variables of PVM, which begin with ``PVM_``, are settings that steps with PVM need."""
_PREFIXES = (*OF_MPI_RANKS, *_OF_MPI_LAUNCHERS, *_OF_PVM_TASKS)


def not_inherited(name: str) -> bool:
    """Whether a variable makes a process believe that it is an MPI rank or a PVM task."""
    return name.startswith(_PREFIXES)
