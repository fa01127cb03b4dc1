"""Clusters of Dask whose workers are jobs of a batch system, started by dask-jobqueue."""

from __future__ import annotations

import signal
from importlib import import_module
from typing import Any

import distributed

from encamp.engines.dask.own_cluster import close_cluster
from encamp.errors import BadJob, EngineUnavailable

_REMEDY = "see the options of dask-jobqueue"


def _jobqueue() -> Any:
    """The package of dask-jobqueue. Importing it must not change what Ctrl-C does."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return import_module("dask_jobqueue")
    except ImportError as exc:
        raise EngineUnavailable("dask", str(exc), "pip install dask-jobqueue") from exc
    except ValueError as exc:  # it sets a signal handler
        remedy = "import dask_jobqueue in the main thread first"
        raise EngineUnavailable("dask", f"dask-jobqueue: {exc}", remedy) from exc
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def cluster_of_jobs(which: str, slots: int | None, options: dict[str, Any]) -> Any:
    """A cluster whose workers are jobs of a batch system, with ``slots`` cores in total."""
    if slots is None:
        raise BadJob("slots", "set how many cores to request from the batch system")
    dask_jobqueue = _jobqueue()
    known = {
        name.removesuffix("Cluster").lower(): name
        for name in dir(dask_jobqueue)
        if name.endswith("Cluster") and name != "JobQueueCluster"
    }
    if not isinstance(which, str) or which.lower() not in known:
        raise BadJob("jobqueue", f"must be one of {', '.join(sorted(known))}, not {which!r}")
    try:
        cluster = getattr(dask_jobqueue, known[which.lower()])(**options)
    except (ValueError, TypeError, OSError) as exc:
        raise EngineUnavailable("dask", f"{which}: {exc}", _REMEDY) from exc
    try:
        cluster.scale(cores=slots)
        cluster.sync(_submitted, cluster)
    except RuntimeError as exc:
        close_cluster(cluster)
        message = "; ".join(str(exc).partition("stderr:")[2].split("\n")).strip("; ") or str(exc)
        raise EngineUnavailable("dask", f"{which}: {message}", _REMEDY) from exc
    return cluster


async def _submitted(cluster: Any) -> None:
    """Wait until the batch system has taken the jobs; raises RuntimeError if it refuses."""
    await cluster  # which does not report refused jobs
    status = distributed.Status
    refused = [job for job in cluster.workers.values() if job.status != status.running]
    try:
        for job in refused:
            await job
    finally:
        for job in refused:
            job.status = job.status if job.status == status.running else status.failed
