"""The communicator of all ranks, and which processes they are."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from encamp.engines.mpi.endpoint import IDLE
from encamp.engines.mpi.leftovers import remains_here, remove
from encamp.engines.mpi.mpi_variables import number_of_ranks
from encamp.errors import EngineFailed, EngineUnavailable
from encamp.timeouts import ALL_START

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Intracomm


def communicator(mpi: ModuleType) -> Intracomm:
    """A separate communicator; blocks until all ranks have called this."""
    comm: Intracomm
    comm, request = mpi.COMM_WORLD.Idup()
    if comm.size != number_of_ranks():
        remove(remains_here())  # a single rank leaves its memory behind, even after a normal end
        library = mpi.Get_library_version().strip()[:40]
        why = f"mpi4py uses {library}, but the launcher belongs to a different MPI"
        raise EngineUnavailable("mpi", why, "set MPI4PY_LIBMPI, or use the launcher of that MPI")
    if not poll(request.Test, ALL_START):
        why = (
            f"not all ranks have opened a cluster within {ALL_START:g} s; all ranks must "
            "run the same script"
        )
        raise EngineFailed("mpi", why)
    comm.Set_errhandler(mpi.ERRORS_RETURN)
    return comm


def show_process(comm: Intracomm) -> dict[int, int]:
    """Send rank 0 this process's id; returns, at rank 0, rank → process id for its host."""
    host = blake2b(Path("/proc/sys/kernel/random/boot_id").read_bytes(), digest_size=7)
    host.update(str(Path("/proc/self/ns/pid").readlink()).encode())
    mine = array("q", [int.from_bytes(host.digest()), os.getpid()])
    all_of_them = array("q", bytes(16 * comm.size))
    comm.Gather(mine, all_of_them if comm.rank == 0 else None)
    found = zip(all_of_them[::2], all_of_them[1::2], strict=True)
    return {rank: pid for rank, (where, pid) in enumerate(found) if rank and where == mine[0]}


def poll(done: Callable[[], bool], timeout: float | None = None) -> bool:
    """Wait without using the core, unlike MPI's own functions; False on timeout."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not done():
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(IDLE)
    return True
