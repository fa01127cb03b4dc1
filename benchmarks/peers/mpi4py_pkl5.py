"""mpi4py.util.pkl5: pickle 5 with buffers out of band."""

from __future__ import annotations

from mpi4py import MPI
from mpi4py.util import pkl5

from benchmarks.peers.mpi4py_messages import measure

if __name__ == "__main__":
    measure("mpi4py.util.pkl5", pkl5.Intracomm(MPI.COMM_WORLD))
