"""An agent's program whose ranks wait in MPI's start, as one of them comes late."""

from __future__ import annotations

import os
import sys
import time

from encamp.engines.mpi import engine as mpi

if "1" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK")):
    time.sleep(6)
mpi.join(sys.argv[2:])
