"""Loading and initialising MPI, with the threads and networks that work."""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING

from encamp.engines.mpi.finalize import finalize_once
from encamp.engines.mpi.find_launcher import REMEDY
from encamp.engines.mpi.mpi_variables import (
    NETMOD,
    PROVIDER,
    THREAD_LEVEL,
    number_of_ranks,
    prefers_ucx,
    variables_set,
)
from encamp.errors import EngineUnavailable

if TYPE_CHECKING:
    from types import ModuleType

_LIBRARY = (
    "set MPI4PY_LIBMPI to the library that belongs to this mpirun: in packages from PyPI "
    "lib/libmpi.so.12 (MPICH) or lib/libmpi.so.40 (Open MPI)"
)


def initialize(*, alone: bool = True) -> ModuleType:
    """The initialised MPI library; ``alone`` if all ranks are on this host."""
    try:
        if "mpi4py.MPI" not in sys.modules:
            _one_thread_at_a_time()
            if not alone:
                return _over_ofi()
        from mpi4py import MPI
    except (ImportError, RuntimeError) as exc:
        why = ": ".join(line.strip() for line in str(exc).strip().splitlines()[:2])
        found = number_of_ranks() > 1 and isinstance(exc, RuntimeError)
        raise EngineUnavailable("mpi", why, _LIBRARY if found else REMEDY) from exc
    return MPI


def _one_thread_at_a_time() -> None:
    """Request an MPI without locks, which is about 10 % faster, unless the user wants them."""
    import mpi4py

    if THREAD_LEVEL not in os.environ:
        mpi4py.rc.thread_level = "serialized"


def _over_ofi() -> ModuleType:
    """The same, with variables that select working networks before MPI is initialised."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    if not MPI.Is_initialized():
        library = MPI.Get_library_version()
        provider = {} if library.startswith("Open MPI") else PROVIDER
        with variables_set({**provider, **(NETMOD if prefers_ucx(library) else {})}):
            MPI.Init_thread(getattr(MPI, f"THREAD_{mpi4py.rc.thread_level}".upper()))
        atexit.register(finalize_once, MPI)
    return MPI
