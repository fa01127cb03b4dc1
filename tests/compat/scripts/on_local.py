"""Run a script of this folder on slots of this machine, where there is no mpirun.

ENCAMP_INLINE says that the slots are to be threads of this process.
"""

import os
import runpy
import sys

import encamp
from encamp.compat.pyopus import use_cluster

if __name__ == "__main__":
    slots, script = int(sys.argv[1]), sys.argv[2]
    sys.argv[1:] = sys.argv[3:]
    with encamp.Cluster(
        "local",
        slots=slots,
        inline="ENCAMP_INLINE" in os.environ,
        follow=lambda _, text: os.write(1, text.encode()),
    ) as c:
        use_cluster(c)
        runpy.run_path(script, run_name="__main__")
