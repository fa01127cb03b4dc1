"""The end of a rank: agents exit after the controller, and MPI is finalized, with a time limit."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from encamp.engines.mpi.communicator import poll
from encamp.engines.mpi.endpoint import MPIEndpoint

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Intracomm

_FINALIZE_WITHIN = 10
_EXIT = 3
"""Tag of rank 0's message that lets the others exit."""


def let_agents_exit(mpi: ModuleType, comm: Intracomm) -> None:
    """Send all other ranks the message that `exit_after_controller` waits for."""
    for rank in range(1, comm.size):
        with suppress(mpi.Exception):
            comm.Isend(b"", rank, _EXIT).Free()


def exit_after_controller(endpoint: MPIEndpoint, mpi: ModuleType, comm: Intracomm) -> None:
    """Wait until rank 0 lets this one exit, and finalize MPI."""
    with suppress(mpi.Exception):
        poll(comm.Irecv(bytearray(1), 0, _EXIT).Test)
    finalize(endpoint, mpi)


def finalize(endpoint: MPIEndpoint, mpi: ModuleType) -> None:
    """Finalize MPI, or end the process by a signal if others would block that."""
    sys.stdout.flush()
    sys.stderr.flush()
    if not endpoint.settled:
        os.kill(os.getpid(), signal.SIGKILL)  # some MPIs do not notice an exit
    if not mpi.Is_finalized():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_FINALIZE_WITHIN)
        mpi.Finalize()
        signal.alarm(0)


def finalize_once(mpi: ModuleType) -> None:
    """Finalize MPI unless it is finalized."""
    if not mpi.Is_finalized():
        mpi.Finalize()
