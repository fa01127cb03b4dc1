"""Where the slots of rank 1 are, which has but one core, and with an argument one more variable."""

import os
import sys

if "1" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK")):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ.update(dict.fromkeys(sys.argv[1:], "1"))

from encamp.compat.pyopus.cooperative import cOS
from encamp.compat.pyopus.mpi import MPI


def place() -> tuple[int, set[int], list[str]]:
    ranks = [name for name in os.environ if name.startswith(("PMI", "OMPI_"))]
    return os.getppid(), os.sched_getaffinity(0), ranks


if __name__ == "__main__":
    cores = {max(os.sched_getaffinity(0))}
    cOS.setVM(MPI())
    parent, its_cores, ranks = cOS.dispatchSingle(place)
    print("slots of rank 0:", parent == os.getpid(), its_cores == cores, ranks)
    cOS.finalize()
