"""How many CPU cores and how much memory this process may use.

`encamp.control_groups`, which containers and batch systems use, limit both. The CPU affinity also
limits cores. If Slurm does not set the affinity, its environment variables contain the number of
cores.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from encamp import slurm
from encamp.control_groups import ROOT, core_limits, memory_limits


def cores(root: Path = ROOT) -> int:
    """The number of cores that this process may use, at least 1; a part of a core counts as one.

    ``root`` is the root folder of the file system, for tests.
    """
    given = [len(os.sched_getaffinity(0)), *(max(1, math.ceil(part)) for part in core_limits(root))]
    return min([*given, slurm.cores() or given[0]])


def memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process and the others of its groups may use together."""
    whole = memory_of_machine()
    return min([whole, slurm.memory() or whole, *memory_limits(root)])


def memory_of_machine() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.stdout.write(f"{cores()}\n")
