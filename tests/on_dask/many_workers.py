"""A Dask cluster of very many workers in one process, whose agents are threads of that, too.

``python many_workers.py 200`` prints its address and reads ``lose 20``; it ends with its input. The
scheduler, the workers, what starts agents and the connections are the real ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from encamp.agent.agent import serve
from encamp.engines.dask import worker
from encamp.engines.kit.mesh.agent import MeshAgent
from encamp.engines.kit.mesh.certificate import Identity
from encamp.engines.kit.start_agents import Order

_ends: dict[str, list[MeshAgent]] = {}
"""The agents' ends by the address of the worker."""


def begin_here(
    order: Order, agents: Mapping[str, Mapping[int, int]], dask_worker: Any
) -> dict[int, str]:
    """Takes the place of what starts processes."""
    for number, slots in agents[dask_worker.address].items():
        agent = MeshAgent(number, Identity(order.certificate, order.key), slots, os.getppid())
        _ends.setdefault(dask_worker.address, []).append(agent)
        threading.Thread(target=_be, args=(agent, order), daemon=True).start()
    return {}


def _be(agent: MeshAgent, order: Order) -> None:
    with suppress(Exception):  # it may be lost at any moment
        agent.reach(order.dial)
        serve(agent, host=f"host-{agent.number}")


def _lose(cluster: Any, count: int) -> None:
    """Let workers vanish, and their agents, which say nothing any more."""
    some = list(cluster.workers.values())[:count]
    for one in some:
        for agent in _ends.get(one.address, ()):
            for link in list(agent._links.values()):
                link._raw.shutdown(socket.SHUT_RDWR)
    cluster.sync(_close, some)


async def _close(workers: Iterable[Any]) -> None:
    await asyncio.gather(*(one.close() for one in workers))


def main(count: int) -> None:
    """See above."""
    from distributed import LocalCluster

    worker.begin_here = begin_here
    made: Any = LocalCluster
    with made(
        n_workers=count,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        for line in sys.stdin:
            _lose(cluster, int(line.split()[1]))
            print("done", flush=True)
        os._exit(0)  # without good-byes of so many


if __name__ == "__main__":
    main(int(sys.argv[1]))
