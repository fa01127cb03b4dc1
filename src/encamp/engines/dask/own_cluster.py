"""A Dask cluster that the engine starts: a scheduler in this process, a worker on each host.

All connections use TLS with a certificate made for the cluster, which hosts get through ssh.
(Distributed's SSHCluster would listen without TLS, or show the key in command lines.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import distributed

from encamp import cores_and_memory
from encamp.engines.kit.hostfile import HostLine
from encamp.engines.kit.ssh import READY, RemotePrograms, address_towards_hosts
from encamp.errors import EngineFailed, text_of

_PAGES = "127.0.0.1:0"
"""The address of Dask's dashboards, on the host only: they have no users and no TLS."""


class HostsCluster:
    """A scheduler here and workers on hosts, as `distributed.LocalCluster` has them on one host.

    Blocks until the workers run. Raises `EngineUnavailable`.
    """

    def __init__(self, hosts: Sequence[HostLine], within: float) -> None:
        security: Any = distributed.Security
        self.security = security.temporary()
        cluster: Any = distributed.LocalCluster
        self._scheduler = cluster(
            n_workers=0,
            processes=False,
            protocol="tls://",
            host=address_towards_hosts(hosts),
            security=self.security,
            dashboard_address=_PAGES,
        )
        orders = [json.dumps(self._order(host)) for host in hosts]
        try:
            self._workers = RemotePrograms("dask", __name__, hosts, orders, within)
        except BaseException:
            self._scheduler.close()
            raise

    @property
    def scheduler_address(self) -> str:
        """The address for clients, which connect with ``security``."""
        return str(self._scheduler.scheduler_address)

    def close(self) -> None:
        """End the workers and the scheduler."""
        self._workers.close()
        self._scheduler.close()

    def _order(self, host: HostLine) -> dict[str, Any]:
        """The settings of a host's worker."""
        tls = self.security.get_tls_config_for_role("worker")
        return {
            "scheduler": self.scheduler_address,
            "name": host.name,
            "threads": host.slots,
            "tls": {"tls_ca_file": tls["ca_file"], "tls_worker_cert": tls["cert"],
                    "tls_worker_key": tls["key"]},
        }  # fmt: skip


def cluster_here(slots: int | None, hosts: Sequence[HostLine], within: float) -> Any:
    """A cluster on hosts, or a scheduler and a worker in this process, for this process only."""
    if hosts:
        return HostsCluster(hosts, within)
    cluster: Any = distributed.LocalCluster
    try:
        return cluster(
            n_workers=1,
            threads_per_worker=slots,
            processes=False,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
        )
    except Exception as exc:  # whatever keeps a scheduler or a worker from starting
        raise EngineFailed("dask", f"its own cluster did not start: {text_of(exc)}") from exc


def close_cluster(cluster: Any) -> None:
    """End a cluster that the engine has started."""
    with contextlib.suppress(AssertionError):  # Distributed expects that no job was refused
        cluster.close()


async def _serve(order: dict[str, Any]) -> None:
    """Run a host's worker, restarted if it dies, until the standard input ends."""
    nanny: Any = distributed.Nanny
    made: Any = distributed.Security
    security = made(require_encryption=True, **order["tls"])
    with tempfile.TemporaryDirectory(prefix="encamp-dask-") as folder:
        async with nanny(
            order["scheduler"],
            name=order["name"],
            nthreads=order["threads"] or cores_and_memory.cores(),
            memory_limit=0,
            security=security,
            local_directory=folder,
            dashboard_address=_PAGES,
        ):
            os.write(1, READY)
            os.dup2(2, 1)  # for the output of other people's tasks
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.stdin.readline())))
