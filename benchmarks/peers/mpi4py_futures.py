"""mpi4py.futures, its workers being the ranks from 1 on."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

from benchmarks.peers.executors import tasks_of
from benchmarks.peers.launch import which_mpi
from benchmarks.peers.rates import Rates

if __name__ == "__main__":
    pool: Any  # None on the workers, which the stubs do not tell
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as pool:
        if pool is not None:
            Rates("mpi4py.futures", which_mpi(), **tasks_of(pool)).show()
