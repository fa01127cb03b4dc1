"""mpi4py's own send and recv of pickled objects."""

from __future__ import annotations

from mpi4py import MPI

from benchmarks.peers.mpi4py_messages import measure

if __name__ == "__main__":
    measure("mpi4py", MPI.COMM_WORLD)
