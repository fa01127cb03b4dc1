"""The engine of one machine, without a network: its agent is in the controller's process."""

from __future__ import annotations

import warnings

from encamp import slurm
from encamp.engines.engine_interface import CONTROLLER, Engine
from encamp.engines.kit.in_process_agent import InProcessEndpoint

_AGENT = 1
_ALONE = (
    "Slurm has allocated {hosts} hosts, but the engine 'local' uses only this one; to use all of "
    "them, "
    "choose one of the engines mpi, dask and pvm"
)


class LocalEngine(InProcessEndpoint, Engine):
    """Slots on this machine, all of which belong to ``agent_here``."""

    name = "local"
    private = True

    def __init__(self, slots: int = 0) -> None:
        super().__init__(CONTROLLER)
        self.slots_per_agent = slots
        self.agent_here = InProcessEndpoint(_AGENT)

    def start(self, orders: bytes) -> None:
        """See `Engine.start`."""

    def stop(self) -> None:
        """See `Engine.stop`; the agent ends with the controller's process."""


def open_endpoint(slots: int | None = None) -> LocalEngine:
    """The controller's end, for ``slots`` slots or as many as this process has cores."""
    warn_if_alone()
    return LocalEngine(slots or 0)


def warn_if_alone() -> None:
    """Warn if Slurm's allocation has other hosts as well."""
    if slurm.count() > 1:
        warnings.warn(_ALONE.format(hosts=slurm.count()), stacklevel=3)
