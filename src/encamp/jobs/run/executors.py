"""The executor on which a job runs, and what executors of other libraries do differently."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from encamp import cores_and_memory
from encamp.engines.local import warn_if_alone
from encamp.errors import BadJob
from encamp.jobs.run_options import RunOptions
from encamp.jobs.worker.slots import slots_here
from encamp.jobs.worker.supervisor_threads import Supervisors
from encamp.number_checks import whole
from encamp.service_statistics import ServiceStatistics
from encamp.slot.slot_command import check_slots
from encamp.storage.dead_owners import reclaim
from encamp.timeouts import CONNECTS

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster
    from encamp.cluster.port import ClusterPort

_OF_CLUSTERS = ("init_command", "inline", "interpreter", "niceness")


def check_executor(executor: object) -> None:
    """Raise `BadJob` for an object on which no job can run, `ClusterClosed` if it is closed."""
    if isinstance(executor, Executor):
        if why := _why_unusable(executor):
            raise BadJob("job.run", f"the executor {why}; create a new one")
        return
    if executor is None:
        check_slots()
        return
    from encamp.cluster.cluster import Cluster, port_of

    if not isinstance(executor, Cluster):
        why = (
            "is neither an executor nor a cluster; use keywords for other options, such as "
            "engine='mpi' or slots=4"
        )
        raise BadJob(f"job.run({executor!r})", why)
    port_of(executor).check_open()


def _why_unusable(executor: Executor) -> str:
    """Why an executor takes no more calls, if it shows that; otherwise empty."""
    broken = getattr(executor, "_broken", None)  # False, or why
    if isinstance(broken, str):
        return f"is broken: {broken}"
    marks = ("_closed", "_shutdown", "_shutdown_thread")
    return "is shut down" if True in [getattr(executor, one, None) for one in marks] else ""


@contextmanager
def pool(
    executor: Executor | Cluster | None, options: RunOptions
) -> Iterator[tuple[Executor, int | None]]:
    """The user's executor, or one whose workers supervise a slot for each task."""
    if isinstance(executor, Executor):
        yield one_worker_a_call(executor), workers_of(executor)
        return
    if executor is not None:
        from encamp.executor.executor import Executor as ClusterExecutor

        with ClusterExecutor(executor) as view:
            yield view, executor.slots
        return
    own, workers = _own_pool(options)
    try:
        yield own, workers
    finally:
        own.shutdown(cancel_futures=True)
        slots_here().close()
        reclaim()  # a slot that was stopped while it removed its folder has left the rest


def _own_pool(options: RunOptions) -> tuple[Executor, int]:
    """Threads of this program, or a cluster whose agents run calls in threads."""
    if options.engine == "local" and not options.engine_options:
        warn_if_alone()
        slots = (
            cores_and_memory.cores() if options.slots is None else whole("slots", options.slots, 1)
        )
        return Supervisors(slots), slots
    from encamp.executor.executor import Executor as ClusterExecutor

    for name in options.engine_options:
        if name in _OF_CLUSTERS:
            why = f"is not an option of a run; run the job on a cluster: job.run(Cluster({name}=…))"
            raise BadJob(name, why)
        if name in signature(ClusterExecutor).parameters:
            raise BadJob(name, "is not an option of a run; give it to the job or to its tasks")
    pool = ClusterExecutor(
        options.engine, slots=options.slots, inline="threads", **options.engine_options
    )
    return pool, pool.cluster.slots


def workers_of(executor: Executor) -> int | None:
    """The number of an executor's workers; None if unknown."""
    cluster = getattr(executor, "cluster", None)
    workers: int | None = getattr(executor, "_max_workers", None)
    return workers if cluster is None else cluster.slots


def one_worker_a_call(executor: Executor) -> Executor:
    """``executor``, or one on the same workers that runs each call on one worker only.

    A direct view of ipyparallel (``client[:]``) runs every call on all of its engines; the balanced
    view of the same engines gives each call to the next free one.
    """
    ipyparallel = sys.modules.get("ipyparallel")
    view = getattr(executor, "view", None)
    if ipyparallel is None or not isinstance(view, ipyparallel.DirectView):
        return executor
    balanced: Executor = view.client.load_balanced_view(view.targets).executor
    return balanced


def answering(executor: Executor, answer: Callable[[Any], Any]) -> Executor:
    """An executor like this one of encamp's, whose calls can ask questions."""
    from encamp.executor import executor as ours

    assert isinstance(executor, ours.Executor)  # noqa: S101 - see `hosts_elsewhere`
    return ours.answering(executor, answer)


def hosts_elsewhere(executor: Executor) -> bool:
    """Whether it is an executor of encamp on a cluster that may have other hosts."""
    port = _port_of(executor)
    return port is not None and port.has_hosts_elsewhere


def _port_of(executor: Executor) -> ClusterPort | None:
    """The cluster of an executor of encamp, None for others."""
    ours = sys.modules.get("encamp.executor.executor")
    if ours is None or not isinstance(executor, ours.Executor):
        return None
    from encamp.cluster.cluster import port_of

    return port_of(executor.cluster)


def name_of(executor: Executor) -> str:
    """The name of an executor, or of its cluster, for reports."""
    owner = executor if isinstance(executor, Supervisors) else _port_of(executor)
    return type(executor).__name__ if owner is None else owner.about


def services_of(executor: Executor) -> list[ServiceStatistics]:
    """The statistics of the services on an executor's cluster; empty for other executors."""
    port = _port_of(executor)
    return [] if port is None else port.services()


def why_gone(executor: Executor) -> str | None:
    """Why an executor of another library will return nothing more; None if it may.

    Process pools report this themselves; a client of a dead server usually waits for a new one.
    """
    client = getattr(executor, "_client", None)
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(client, distributed.Client):
        return None if client.status == "running" else "the connection to its scheduler was lost"
    ipyparallel = sys.modules.get("ipyparallel")
    view = getattr(executor, "view", None)
    if ipyparallel is not None and isinstance(view, ipyparallel.client.view.View):
        return _why_controller_gone(view.client)
    return None


def _why_controller_gone(client: Any) -> str | None:
    if getattr(client, "_closed", False):
        return "its client is closed"
    if not _answers(client._config.get("task", "")):
        return "its controller does not answer"
    return None if client.ids else "it has no engines left"


def _answers(url: str) -> bool:
    """Whether a server listens at a ZeroMQ address; True if that is unknown."""
    kind, _, place = url.partition("://")
    host, _, port = place.rpartition(":")
    try:
        if kind == "tcp" and port.isdecimal():
            socket.create_connection((host, int(port)), CONNECTS).close()
        elif kind == "ipc":
            with socket.socket(socket.AF_UNIX) as local:
                local.connect(place)
    except OSError:
        return False
    return True
