"""The engine ``dask``: an agent for each worker of a Dask cluster, with a slot for each thread.

The cluster is the user's, or one that the engine starts. Dask only starts the agents; calls and
messages go over the mesh, since a Dask task for each of them would take milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import distributed
from distributed.comm.addressing import get_address_host

from encamp.engines.dask.jobqueue import cluster_of_jobs
from encamp.engines.dask.leases import Leases
from encamp.engines.dask.own_cluster import close_cluster, cluster_here
from encamp.engines.dask.tunnels import Relay, carry_here
from encamp.engines.dask.worker import begin_here, end_here, leave_here
from encamp.engines.kit import start_agents as starting
from encamp.engines.kit.hostfile import hosts_of
from encamp.engines.kit.mesh.addresses import address_towards
from encamp.engines.kit.mesh.control_messages import Address
from encamp.engines.kit.mesh.engine import ExpectedAgent, MeshEngine, shares
from encamp.engines.kit.start_agents import Order
from encamp.errors import BadJob, EngineFailed, EngineUnavailable, text_of
from encamp.number_checks import whole
from encamp.timeouts import ENDS

_LOOK = 1.0
"""Seconds between checks of agents that have not joined."""
_CALM = 2.0
"""Seconds that a lease is kept when it is no longer needed, so that Dask ignores short pauses."""


def open_endpoint(
    client: Any = None,
    *,
    address: str | None = None,
    cluster: Any = None,
    slots: int | None = None,
    security: Any = None,
    jobqueue: str | None = None,
    hosts: Sequence[str] | str | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    restarts: int = 3,
    start_timeout: float = 60.0,
    **more: Any,
) -> DaskEngine:
    """The controller's end.

    ``client`` is a `distributed.Client`, or a cluster object as ``cluster`` is, such as a
    `distributed.LocalCluster` or a `dask_jobqueue.SLURMCluster`; ``address`` is that of a scheduler
    (with ``security``, a `distributed.Security`, if it uses TLS). ``jobqueue`` names a batch system
    (``"slurm"``, ``"pbs"``, …) where dask-jobqueue starts workers with ``slots`` cores in total;
    ``more`` are its options. On ``hosts`` (as ``"node1"`` or ``"node1:4"``) or those of a
    ``hostfile``, the engine starts workers through ssh, or through srun in allocations of Slurm.
    Without any of these it starts a cluster on this host. ``slots`` is the total number of slots,
    by default one for each thread of the workers. Raises `BadJob`, `EngineUnavailable` and
    `EngineFailed`.
    """
    slots = None if slots is None else whole("slots", slots, 1)
    restarts = whole("restarts", restarts, 0)
    given = {"client": client, "address": address, "cluster": cluster, "jobqueue": jobqueue,
             "hosts": hosts, "hostfile": hostfile}  # fmt: skip
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise BadJob(" and ".join(chosen), "choose the Dask cluster with one of these")
    if address is not None and not isinstance(address, str):
        raise BadJob("address", f"must be a scheduler's, like 'tcp://host:8786', not {address!r}")
    if more and jobqueue is None:
        raise TypeError(f"open_endpoint() got an unexpected keyword argument {next(iter(more))!r}")
    security = _security(security)
    own = None
    if jobqueue is not None:
        own = cluster = cluster_of_jobs(jobqueue, slots, more)
    elif not chosen or chosen[0] in ("hosts", "hostfile"):
        own = cluster = cluster_here(slots, hosts_of("dask", hosts, hostfile), start_timeout)
    try:
        client = _connect(client or cluster, address, security, start_timeout)
        return DaskEngine(client, slots, restarts, own)
    except BaseException:
        if own is not None:
            close_cluster(own)
        raise


def takes(
    client: Any,
    address: str,
    cluster: Any,
    slots: int,
    security: Any,
    jobqueue: str,
    hosts: Sequence[str],
    hostfile: str,
    restarts: int,
) -> None:
    """The names of the options of `open_endpoint`."""


def _security(given: Any) -> Any:
    """The argument ``security`` for `distributed.Client`; a table of options becomes one."""
    if given is None or isinstance(given, distributed.Security):
        return given
    kind: Any = distributed.Security
    try:
        return kind(**given)
    except (TypeError, ValueError) as exc:
        why = f"must be a Security of Dask, or a table of its options: {exc}"
        raise BadJob("security", why) from exc


def _connect(given: Any, address: str | None, security: Any, within: float) -> Any:
    """A new client: the user's may be closed, restarted or asynchronous."""
    if given is not None:
        address, security = _address_of(given), security or given.security
    client: Any = distributed.Client
    try:
        return client(
            address,
            security=security,
            timeout=within,
            set_as_default=False,
            asynchronous=False,
            name="encamp",
        )
    except Exception as exc:  # any program may answer at this address
        remedy = "give address='tcp://host:8786', or 'tls://…' with security=, of one that runs"
        why = f"no scheduler at {address}: {text_of(exc)}"
        raise EngineUnavailable("dask", why, remedy) from exc


def _address_of(given: Any) -> str:
    if isinstance(given, distributed.Client):
        if given.scheduler is None:
            raise EngineUnavailable(
                "dask", "its client is closed", "give a client that is connected"
            )
        return str(given.scheduler.address)
    address = getattr(given, "scheduler_address", None)
    if not isinstance(address, str) or not address:
        raise BadJob("client", f"must be a Client or a cluster of Dask, not {given!r}")
    return address


class DaskEngine(MeshEngine):
    """The controller's end. Workers that join the cluster get agents, too."""

    elastic = True
    tunnel = "Dask's scheduler"

    def __init__(self, client: Any, slots: int | None, restarts: int, own: Any) -> None:
        try:
            super().__init__("dask", restarts)
        except BaseException:
            client.close()
            raise
        self._client, self._own, self._slots = client, own, slots
        self._slots_of: dict[str, int] = {}
        """The slots of each worker that has agents."""
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._leases = Leases(client, self.run)
        self._tunnels = Relay(client, self.run, self.tunnelled)
        self._wanted: tuple[dict[str, int], int] = {}, 0
        self._waited = 0
        """Calls that waited at the last check: the cluster should not grow for short waits."""
        self._given: dict[str, tuple[int, float]] = {}
        self._looks: threading.Thread | None = None
        self._one_by_one = threading.Lock()
        self._helper = threading.Thread(target=self._help, name="encamp-dask", daemon=True)

    # Agents

    def begin(self) -> None:
        """See `MeshEngine.begin`."""
        self._client.subscribe_topic("all", self._event)
        threads: Mapping[str, int] = self._client.nthreads()
        found = shares(self._slots, list(threads.values()))
        self._begin({address: n for address, n in zip(threads, found, strict=True) if n})
        self.agents = max(1, len(self.known))
        if not self.known:
            self.needs({}, 1)
        self._helper.start()

    def _event(self, event: Any) -> None:
        """Handle an event of Dask, in its thread."""
        _, message = event
        if message.get("action") == "add-worker":
            self._asked.put(self._look_for_workers)
        elif message.get("action") == "remove-worker":
            self.call_soon(partial(self._worker_gone, message["worker"]))
        elif message.get("action") == "encamp-tunnel" and message.get("run") == self.run:
            self._in_thread(partial(self._carry, message["worker"]))

    def _carry(self, worker: str) -> None:
        """Open tunnels for agents beside a worker that cannot reach this host."""
        try:
            with self._one_by_one:
                ready = not self._stopping and self._tunnels.open()
        except EngineFailed as exc:
            self.call_soon(partial(self._give_up_unjoined, worker, exc.why))
            return
        if ready:
            self._run(carry_here, self.run, self._tunnels.name, workers=[worker])

    def _look_for_workers(self) -> None:
        threads = dict(self._client.nthreads())
        self.call_soon(partial(self._note_workers, threads))

    @property
    def _left(self) -> int | None:
        """How many more slots are wanted; None for all slots.

        There may be too many: a host that was given up gets agents again when it is back.
        """
        return None if self._slots is None else max(0, self._slots - self.total_slots)

    def _note_workers(self, threads: Mapping[str, int]) -> None:
        """Start agents on workers without any, as far as slots are wanted."""
        new = {}
        left = self._left
        for address, count in threads.items():
            if address not in self._slots_of and address not in new:
                count = count if left is None else min(count, left)
                left = None if left is None else left - count
                if count:
                    new[address] = count
        if not self._stopping:
            self._begin(new)

    def _worker_gone(self, address: str) -> None:
        """Handle a worker that has left; agents that have joined report their own end."""
        self._slots_of.pop(address, None)
        self._give_up_unjoined(address, "its worker has left")

    def _give_up_unjoined(self, address: str, why: str) -> None:
        """Record that the agents beside a worker that have not joined never will."""
        for agent in [a for a in self.known.values() if a.where == address and a.link is None]:
            self.could_not_join(agent.number, why)

    def slots_lost(self) -> None:
        """See `MeshEngine.slots_lost`: workers that were not needed may be now."""
        if self._slots is not None:
            self._asked.put(self._look_for_workers)

    def begin_again(self, agent: ExpectedAgent) -> None:
        """See `MeshEngine.begin_again`."""
        if agent.where in self._slots_of:
            self._start(self.expect_again(agent))

    def _begin(self, workers: Mapping[str, int]) -> None:
        self._slots_of.update(workers)
        agents: list[ExpectedAgent] = []
        for address, count in workers.items():
            agents += self.expect(address, address, [count] if self.whole else [1] * count)
        self._start(agents)

    def _start(self, agents: Iterable[ExpectedAgent]) -> None:
        """Start agents, for each group of workers that reach this host by the same addresses."""
        groups: dict[tuple[Address, ...], dict[str, dict[int, int]]] = {}
        for agent in agents:
            dial = self._dial(str(agent.where))
            group = groups.setdefault(dial, {})
            group.setdefault(str(agent.where), {})[agent.number] = agent.slots
        for dial, group in groups.items():
            order = self.order(list(dial))
            call = partial(self._run_begin, order, group)
            self._in_thread(call)

    def _dial(self, worker: str) -> tuple[Address, ...]:
        """Addresses at which a worker may reach this host, the most probable first."""
        hosts = [get_address_host(worker), get_address_host(self._client.scheduler.address)]
        if worker.startswith("inproc://"):
            hosts = ["127.0.0.1"]
        found = [address_towards(host) for host in hosts]
        return tuple(self.listen(host) for host in dict.fromkeys(filter(None, found)))

    def _run_begin(self, order: Order, group: dict[str, dict[int, int]]) -> None:
        """Start agents through Dask; blocks."""
        for address, answer in self._run(begin_here, order, group, workers=list(group)).items():
            if isinstance(answer, Exception):
                answer = dict.fromkeys(group[address], starting.why_not(answer, "Dask's workers"))
            for number, why in answer.items():
                self.call_soon(partial(self.could_not_join, number, why))

    def _run(self, function: Any, *args: Any, workers: Collection[str]) -> dict[str, Any]:
        """Run a function on workers, but not as a Dask task; returns results or exceptions."""
        try:
            found: dict[str, Any] = self._client.run(
                function, *args, workers=list(workers), on_error="return"
            )
        except Exception as exc:  # noqa: BLE001 - the scheduler has ended, or is ending
            return dict.fromkeys(workers, exc)
        return found

    # The helper thread, for calls of Dask that take time

    def _help(self) -> None:
        """Handle agents that do not join, new workers, and leases."""
        looked = time.monotonic()
        while True:
            try:
                asked = self._asked.get(timeout=_LOOK)
                if asked is None:
                    return
                with contextlib.suppress(
                    Exception
                ):  # the loss of the scheduler is reported elsewhere
                    asked()
            except queue.Empty:
                pass
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                with contextlib.suppress(Exception):
                    self._fail_without_scheduler()
                    self._lease()
                    self._look_for_ended()

    def _look_for_ended(self) -> None:
        """Ask the workers for agents that have ended before they joined."""
        there = list(self.known.values())
        late = {str(agent.where) for agent in there if agent.link is None}
        if late and not (self._looks and self._looks.is_alive()):
            self._looks = self._in_thread(partial(self._ask_for_ended, late))

    def _ask_for_ended(self, late: Collection[str]) -> None:
        """Blocks as long as Dask tries to reach a worker that is cut off."""
        for found in self._run(starting.ended, self.run, workers=late).values():
            if isinstance(found, dict):
                for number, words in found.items():
                    self.call_soon(partial(self.could_not_join, number, words))

    def needs(self, busy: Mapping[int, int], waiting: int) -> None:
        """See `Engine.needs`."""
        at_work: dict[str, int] = {}
        for number, count in busy.items():
            if (agent := self.known.get(number)) is not None:
                where = str(agent.where)
                at_work[where] = at_work.get(where, 0) + count
        room = self._left
        new = at_work.keys() - self._wanted[0].keys()
        self._wanted = at_work, waiting if room is None else min(waiting, room)
        if new:  # now, before Dask considers a worker idle
            self._asked.put(self._lease)

    def _lease(self) -> None:
        """Adjust the leases to the need; those not needed any more are kept for a while."""
        (busy, waiting), now = self._wanted, time.monotonic()
        waits, self._waited = min(waiting, self._waited), waiting
        for address, count in busy.items():
            self._given[address] = count, now
        self._given = {
            address: (count, when)
            for address, (count, when) in self._given.items()
            if now - when < _CALM and address in self._slots_of
        }
        self._leases.adjust({where: count for where, (count, _) in self._given.items()}, waits)

    def _fail_without_scheduler(self) -> None:
        """Fail if the client has lost the scheduler, so that no worker will join any more."""
        if self._client.status == "closed" and not self.known:
            self.call_soon(self._fail)

    def _fail(self) -> None:
        raise EngineFailed(self.name, "its scheduler has ended")

    # The end

    def end_by_force(self, agents: Iterable[ExpectedAgent]) -> None:
        """See `MeshEngine.end_by_force`."""
        self._briefly(
            partial(self._run, end_here, self.run, 0.0, workers={str(a.where) for a in agents})
        )

    def release(self) -> None:
        """See `MeshEngine.release`."""
        self._asked.put(None)
        if self._helper.is_alive():
            self._helper.join(ENDS)
        self._briefly(self._leave)
        self._briefly(self._client.close)
        if self._own is not None:
            close_cluster(self._own)

    def _leave(self) -> None:
        """Remove everything of this run from the cluster."""
        with contextlib.suppress(Exception):
            self._client.unsubscribe_topic("all")
            self._leases.close()
            self._tunnels.close()
        self._run(leave_here, self.run, 1.0, workers=list(self._slots_of))

    def _briefly(self, call: Callable[[], Any]) -> None:
        """Make a call that may wait for a lost scheduler, at most for some seconds."""
        self._in_thread(call).join(ENDS)

    @staticmethod
    def _in_thread(call: Callable[[], Any]) -> threading.Thread:
        """Make a call that may wait for Dask, in a separate thread."""
        thread = threading.Thread(target=call, name="encamp-dask-call", daemon=True)
        thread.start()
        return thread
