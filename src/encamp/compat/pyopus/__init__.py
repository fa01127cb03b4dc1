"""The interface of PyOPUS 0.9 ``pyopus.parallel``: its scripts run with new import lines.

    pyopus.parallel.base          →  encamp.compat.pyopus.base
    pyopus.parallel.mpi           →  encamp.compat.pyopus.mpi
    pyopus.parallel.pvm           →  encamp.compat.pyopus.pvm
    pyopus.parallel.cooperative   →  encamp.compat.pyopus.cooperative

Names, arguments, ids, the order of messages and return values are those of PyOPUS. Unlike PyOPUS,
this interface loses no errors, files or runs; see `encamp.compat.pyopus.mpi` and
`encamp.compat.pyopus.pvm`.
"""

from encamp.compat.pyopus.base import PyOpusError
from encamp.compat.pyopus.spawner import use_cluster

__all__ = ["PyOpusError", "use_cluster"]
