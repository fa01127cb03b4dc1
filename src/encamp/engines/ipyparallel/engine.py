"""The engine ``ipyparallel``: an agent for each engine of an ipyparallel cluster.

The cluster is the user's, or one that the engine starts. ipyparallel only starts the agents, with
one short task on each of its engines; calls and messages go over the mesh. An engine that is busy
with the user's own tasks gets its agent when it is free, and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import ipyparallel

from encamp.engines.ipyparallel.own_cluster import OwnCluster
from encamp.engines.ipyparallel.tunnels import Relay, begin_here
from encamp.engines.kit.cores import with_cores
from encamp.engines.kit.hostfile import HostLine, hosts_of, spread
from encamp.engines.kit.mesh.addresses import address_towards
from encamp.engines.kit.mesh.engine import ExpectedAgent, MeshEngine, shares
from encamp.engines.kit.ssh import command_on
from encamp.engines.kit.start_agents import end, ended, host_id, why_not
from encamp.errors import BadJob, EngineFailed, EngineUnavailable, text_of
from encamp.number_checks import whole
from encamp.timeouts import ENDS
from encamp.version import same_minor

_LOOK, _SOON = 0.5, 0.02
"""Seconds between searches for new engines, and the same while some engines are being asked."""
_OUTWARDS = "192.0.2.1"
"""An unused address (RFC 5737): packets for it would leave by the default route."""
_WHOSE = "ipyparallel's engines"
_ABOUT = (
    "__import__('platform').python_version(), "
    f"__import__({host_id.__module__!r}, fromlist=['']).host_id()"
)
"""The first question to an engine, as source code: ipyparallel sends functions as bytecode, which
crashes a Python of a different version."""
_OTHER_PYTHON = "it runs Python {}, but this program runs Python {}: use one version everywhere"
_START_ONE = "start one: ipcluster start -n 4"
_START_IT = "start it, and wait for its engines: start_and_connect_sync()"


def open_endpoint(
    client: Any = None,
    *,
    profile: str | None = None,
    connection_file: str | None = None,
    hosts: Sequence[str] | str | None = None,
    hostfile: str | os.PathLike[str] | None = None,
    slots: int | None = None,
    per_engine: int | None = None,
    restarts: int = 3,
    start_timeout: float = 60.0,
) -> IPythonEngine:
    """The controller's end.

    ``client`` is an `ipyparallel.Client` or `ipyparallel.Cluster`; otherwise ``connection_file`` or
    ``profile`` name the cluster. On ``hosts`` (as ``"node1"`` or ``"node1:4"``) or those of a
    ``hostfile``, the engine starts a cluster through ssh, or through srun in allocations of Slurm.
    Without any of these it starts one on this host. ``slots`` is the total number of slots,
    ``per_engine`` that of each engine: by default 1, if others have started the cluster. Raises
    `BadJob`, `EngineUnavailable` and `EngineFailed`.
    """
    slots = None if slots is None else whole("slots", slots, 1)
    each = None if per_engine is None else whole("per_engine", per_engine, 1)
    restarts = whole("restarts", restarts, 0)
    given = {"client": client, "profile": profile, "connection_file": connection_file,
             "hosts": hosts, "hostfile": hostfile}  # fmt: skip
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise BadJob(" and ".join(chosen), "choose the cluster with one of these")
    for name in ("profile", "connection_file"):
        if not isinstance(given[name], str | None):
            raise BadJob(name, f"must be a string, not {given[name]!r}")
    if not chosen or chosen[0] in ("hosts", "hostfile"):
        return _start_cluster(
            slots, each, restarts, hosts_of("ipyparallel", hosts, hostfile), start_timeout
        )
    if client is None:
        client, close = _connected(connection_file, profile, start_timeout), True
    else:
        client, close = _client_of(client, start_timeout)
    end = client.close if close else None
    return IPythonEngine(client, slots, each or 1, restarts, end, start_timeout)


def _connected(file: str | None, profile: str | None, within: float) -> Any:
    try:
        return ipyparallel.Client(file, profile=profile, timeout=within)
    except Exception as exc:
        what = f"connection_file {file!r}" if file else f"profile {profile!r}"
        message = f"it lacks {exc}" if isinstance(exc, KeyError) else text_of(exc)
        why = f"no cluster was reached through its {what}: {message}"
        raise EngineUnavailable("ipyparallel", why, _START_ONE) from exc


def _client_of(given: Any, within: float) -> tuple[Any, bool]:
    """The user's client, and whether the engine has to close it."""
    if isinstance(given, ipyparallel.Cluster):
        if given.controller is None or not given.controller.running:
            raise EngineUnavailable("ipyparallel", "its cluster does not run", _START_IT)
        try:
            return given.connect_client_sync(timeout=within), True
        except Exception as exc:
            why = f"its cluster was not reached: {text_of(exc)}"
            raise EngineUnavailable("ipyparallel", why, _START_IT) from exc
    client = getattr(given, "client", given)  # that of a view
    if not isinstance(client, ipyparallel.Client):
        raise BadJob("client", f"must be a Client of ipyparallel, not {given!r}")
    return client, False


def _start_cluster(
    slots: int | None,
    each: int | None,
    restarts: int,
    hosts: Sequence[HostLine],
    within: float,
) -> IPythonEngine:
    """Start a cluster: by default one engine for all slots of a host, as engines take much memory.

    If hosts have different numbers of slots, they get several engines of the same size.
    """
    hosts = hosts or [HostLine("localhost")]
    hosts = spread(hosts, slots) if slots else with_cores(hosts, command_on, within)
    each = each or math.gcd(*(host.slots for host in hosts))
    engines = [(host, -(-host.slots // each)) for host in hosts]
    with contextlib.ExitStack() as stack:
        own = OwnCluster(engines, within)
        stack.callback(own.close)
        with _as_engine_error("its cluster did not start"):
            client = ipyparallel.Client(own.connection_file, timeout=within)
        stack.callback(client.close)
        with _as_engine_error("not all of its engines have joined"):
            count = sum(number for _, number in engines)
            client.wait_for_engines(count, timeout=within, interactive=False)
        close = stack.pop_all().close
    slots = sum(host.slots for host in hosts)
    return IPythonEngine(client, slots, each, restarts, close, within)


@contextlib.contextmanager
def _as_engine_error(why: str) -> Iterator[None]:
    """Raise errors of ipyparallel as `EngineFailed`."""
    try:
        yield
    except Exception as exc:
        raise EngineFailed("ipyparallel", f"{why}: {exc}") from exc


class _Asked:
    """A short task of encamp's on an engine, and a function for its result or error."""

    def __init__(self, engine: int, result: Any, then: Callable[[Any, Exception | None], None]):
        self.engine, self.result, self.then = engine, result, then

    def notify(self) -> None:
        """Call the function with the result or the error."""
        try:
            value = self.result.get(0)
        except Exception as exc:  # noqa: BLE001 - it is for the caller
            self.then(None, exc)
        else:
            self.then(value, None)


class IPythonEngine(MeshEngine):
    """The controller's end. Engines that join the cluster get agents, too.

    ``close`` is called at the end, if it is given. A controller that does not answer within
    ``within`` seconds at the start is considered dead.
    """

    tunnel = "ipyparallel's controller"

    def __init__(
        self,
        client: Any,
        slots: int | None,
        each: int,
        restarts: int,
        close: Callable[[], None] | None,
        within: float,
    ) -> None:
        try:
            super().__init__("ipyparallel", restarts)
        except BaseException:
            if close is not None:
                close()
            raise
        self._client, self._slots, self._each, self._close_all = client, slots, each, close
        self._within = within
        self._slots_of: dict[int, int] = {}
        """The slots of each engine that has, or is to have, agents."""
        self._unusable: set[int] = set()
        """Engines without encamp, or with a different version of Python."""
        self._awaited: dict[int, int] = {}
        """The agents of each engine for which the start waits."""
        self._tunnels = Relay(client, self.run, self.tunnelled)
        self._ended = threading.Event()
        self._asked: list[_Asked] = []
        """For the helper thread, as everything that talks to ipyparallel."""
        self._again: list[ExpectedAgent] = []
        self._helper = threading.Thread(target=self._help, name="encamp-ipyparallel", daemon=True)

    def begin(self) -> None:
        """See `MeshEngine.begin`; busy engines are not waited for."""
        queues = self._queues()
        ids = self._client.ids
        if not ids:
            why = "its cluster has no engines"
            raise EngineUnavailable(self.name, why, "start some: ipcluster engines -n 4")
        busy = {engine for engine, status in queues.items() if _busy(status)}
        self._start_missing(ids)
        self._awaited = {
            engine: 1 if self.whole else count
            for engine, count in self._slots_of.items()
            if engine not in busy
        }
        self.agents = max(1, sum(self._awaited.values()))
        self._helper.start()

    def _queues(self) -> dict[int, Any]:
        """The engines' queues. ipyparallel itself would wait forever for a dead controller."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self._client.queue_status())
            except Exception as exc:  # noqa: BLE001 - it is for the waiting thread
                answer.put(exc)

        threading.Thread(target=ask, name="encamp-ipyparallel-queues", daemon=True).start()
        try:
            value = answer.get(timeout=self._within)
        except queue.Empty:
            why = f"its controller has not answered for {self._within:g} s"
            raise EngineUnavailable(self.name, why, _START_ONE) from None
        if isinstance(value, Exception):
            why = f"its client cannot be used: {text_of(value)}"
            raise EngineUnavailable(self.name, why, "give a client that is connected") from value
        found: dict[int, Any] = value
        return found

    def _start_missing(self, ids: Iterable[int]) -> None:
        """Start agents at engines without any, as far as slots are wanted."""
        new = [engine for engine in ids if engine not in {*self._slots_of, *self._unusable}]
        left = None if self._slots is None else self._slots - sum(self._slots_of.values())
        for engine, count in zip(new, shares(left, [self._each] * len(new)), strict=True):
            if count:
                self._slots_of[engine] = count
                self._ask(engine, partial(self._located, engine, count), eval, _ABOUT)

    def _located(
        self, engine: int, count: int, about: tuple[str, str] | None, exc: Exception | None
    ) -> None:
        """Start agents at an engine, whose Python and host are known now."""
        if about is None:
            self._not_started(engine, why_not(exc, _WHOSE))
            return
        python, host = about
        ours = platform.python_version()
        if not same_minor(python, ours):
            self._not_started(engine, _OTHER_PYTHON.format(python, ours))
            return
        here = host == host_id()
        self.call_soon(partial(self._expect, engine, [count] if self.whole else [1] * count, here))

    def _expect(self, engine: int, slots: list[int], here: bool) -> None:
        if self._stopping:
            return
        agents = self.expect((engine, here), f"engine {engine}", slots)
        self._again += agents

    def begin_again(self, agent: ExpectedAgent) -> None:
        """See `MeshEngine.begin_again`."""
        engine, _ = _engine_of(agent)
        if engine in self._slots_of and not self._stopping:
            self._again += self.expect_again(agent)

    def _start(self, agents: list[ExpectedAgent]) -> None:
        for agent in agents:
            engine, here = _engine_of(agent)
            order = self.order([self.listen(host) for host in self._hosts(here)])
            then = partial(self._started, engine, agent.number)
            self._ask(engine, then, begin_here, order, {agent.number: agent.slots})

    def _hosts(self, here: bool) -> list[str]:
        """Addresses of this host that an engine may reach it at."""
        endpoint = self._client._query_socket.LAST_ENDPOINT.decode()
        host = urlsplit(endpoint).hostname or "127.0.0.1"
        towards = address_towards(host)
        loops = towards.startswith("127.") or towards in ("", "::1")
        if loops and not here:
            towards = address_towards(_OUTWARDS)
        return [towards or "127.0.0.1"]

    def _started(
        self, engine: int, number: int, failed: dict[int, str] | None, exc: Exception | None
    ) -> None:
        why = why_not(exc, _WHOSE) if failed is None else failed.get(number)
        if why is not None:
            self.call_soon(partial(self.could_not_join, number, why))
        else:
            self._tunnels.greet(engine)

    def _not_started(self, engine: int, why: str) -> None:
        """Give up an engine that died or cannot run encamp's tasks: its agents will not join."""
        self._slots_of.pop(engine, None)
        self._unusable.add(engine)
        self.call_soon(partial(self._stop_waiting_for, engine, why))

    def _stop_waiting_for(self, engine: int, why: str) -> None:
        """Stop waiting for the agents of an engine. Raises `EngineFailed` if none is left."""
        self.agents = max(1, self.agents - self._awaited.pop(engine, 0))
        if not (self.known or self._slots_of):
            raise EngineFailed(self.name, f"no agent could be started: engine {engine}: {why}")

    # The helper thread, for calls of ipyparallel that take time

    def _ask(self, engine: int, then: Callable[..., None], function: Any, *args: Any) -> None:
        result = self._client[engine].apply_async(function, *args)
        self._asked.append(_Asked(engine, result, then))

    def _help(self) -> None:
        """Handle engines that join and leave, and results of encamp's tasks."""
        looked = 0.0
        while not self._ended.wait(_SOON if self._asked or self._again else _LOOK / 5):
            with contextlib.suppress(Exception):  # a closed client is reported elsewhere
                self._handle_results()
                if time.monotonic() - looked >= _LOOK:
                    looked = time.monotonic()
                    self._look()

    def _handle_results(self) -> None:
        while self._again:
            self._start([self._again.pop(0)])
        asked, self._asked = self._asked, []
        for one in asked:
            if one.result.ready():
                one.notify()
                with contextlib.suppress(Exception):
                    self._client.purge_local_results(one.result)
            else:
                self._asked.append(one)

    def _look(self) -> None:
        """Find engines that have joined or left, and agents that have ended before they joined."""
        ids = self._client.ids
        for engine in self._slots_of.keys() - set(ids):
            del self._slots_of[engine]
            self._tunnels.end(engine)
        self._start_missing(ids)
        asked = {one.engine for one in self._asked}
        late = {_engine_of(one)[0] for one in list(self.known.values()) if one.link is None}
        for engine in (late & self._slots_of.keys()) - asked:
            self._ask(engine, self._have_ended, ended, self.run)

    def _have_ended(self, endings: dict[int, str] | None, exc: Exception | None) -> None:
        for number, words in (endings or {}).items():
            self.call_soon(partial(self.could_not_join, number, words))

    # The end

    def end_by_force(self, agents: Iterable[ExpectedAgent]) -> None:
        """See `MeshEngine.end_by_force`."""
        self._end_all({_engine_of(agent)[0] for agent in agents}, 0.0)

    def release(self) -> None:
        """See `MeshEngine.release`; agents that busy engines have not started are never started."""
        self._ended.set()
        if self._helper.is_alive():
            self._helper.join(ENDS)
        with contextlib.suppress(Exception):
            for one in self._asked:
                self._client.abort(one.result, targets=one.engine, block=False)
            busy = {one.engine for one in self._asked}
            self._end_all(self._slots_of.keys() - busy, 1.0)
            self._tunnels.close()
        if self._close_all is not None:
            self._close_all()

    def _end_all(self, engines: Iterable[int], within: float) -> None:
        with contextlib.suppress(Exception):
            asked = [self._client[engine].apply_async(end, self.run, within) for engine in engines]
            self._client.wait(asked, timeout=ENDS)
            self._client.purge_local_results(asked)


def _engine_of(agent: ExpectedAgent) -> tuple[int, bool]:
    """The engine of an agent, and whether it is on this host."""
    return cast("tuple[int, bool]", agent.where)


def _busy(status: Any) -> bool:
    return isinstance(status, dict) and bool(status.get("queue") or status.get("tasks"))
