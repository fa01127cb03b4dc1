"""Functions that the engine ``dask`` runs in Dask's workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import dask
from distributed.comm.addressing import get_address_host

from encamp.engines.dask import tunnels
from encamp.engines.dask.leases import LOOK, key_of
from encamp.engines.kit import start_agents

_ENVIRON = "distributed.nanny.pre-spawn-environ"
_SHORT = 0.005
"""Seconds between checks whether the leases have ended."""


def begin_here(
    order: start_agents.Order, agents: Mapping[str, Mapping[int, int]], dask_worker: Any
) -> dict[int, str]:
    """Start the agents for this worker; ``agents`` are by the workers' addresses."""
    set_by_nanny = dask.config.get(_ENVIRON, {}) if dask_worker.nanny else {}
    unset = {name: str(value) for name, value in set_by_nanny.items()}
    carried = start_agents.Tunnels(
        partial(tunnels.begun, dask_worker, order.run), [get_address_host(dask_worker.address)]
    )
    mine = agents[dask_worker.address]
    return start_agents.begin(order, mine, unset, tunnels=None if _inside(dask_worker) else carried)


def _inside(worker: Any) -> bool:
    """Whether a worker is in the program's process, so that it needs no tunnel."""
    return str(worker.address).startswith("inproc://")


async def end_here(run: str, within: float) -> None:
    """End a run's agents beside this worker, which continues its work in the meantime."""
    await asyncio.to_thread(start_agents.end, run, within)


async def leave_here(run: str, within: float, dask_worker: Any) -> None:
    """The same, and wait for the end of the leases: Dask warns of those that outlast a worker."""
    await end_here(run, within)
    for _ in range(int(2 * LOOK / _SHORT)):
        if not any(key_of(run) in str(key) for key in dask_worker.active_threads.values()):
            break
        await asyncio.sleep(_SHORT)
    await asyncio.sleep(_SHORT)  # Dask takes note of their end
