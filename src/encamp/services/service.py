"""A service: its options, and the ways to call it."""

from __future__ import annotations

import functools
import types
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

from encamp.cluster.controller import Controller
from encamp.cluster.kill_and_cancel import NOT_INLINE
from encamp.cluster.spawn_options import SharedOptions, SpawnOptions, check_flag
from encamp.errors import (
    BadJob,
    EncampError,
    NoSuchHost,
    NotEnough,
    NotInTime,
    UnknownOption,
    UnsupportedByEngine,
    WrongType,
)
from encamp.number_checks import duration, limit, patience, whole
from encamp.service_statistics import ServiceStatistics
from encamp.services.argument_checks import can_be_iterated, check_name, named
from encamp.services.client import Client
from encamp.services.collective_calls import Caller, CollectiveCalls
from encamp.services.current_client import client_of
from encamp.services.group import Group
from encamp.services.letters import APPLY, CALL, Granted
from encamp.services.proxy import Proxy, pickled, proxies
from encamp.services.registry.registry import Registry
from encamp.services.registry.service_records import PublishedService
from encamp.services.result import Result
from encamp.services.retried_calls import call_with_retries
from encamp.services.server import Blueprint
from encamp.services.xterm_windows import Windows
from encamp.units import counted
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump_as


class ServiceOptions(SharedOptions, total=False):
    """The options of a service; see `Cluster.publish`."""

    per: Literal["slot", "host"]
    count: int | None
    name: str
    kwargs: Mapping[str, Any] | None
    restarts: int
    checkpoint_every: int
    at_least_once: bool
    call_limit: float | None
    idle_limit: float | None
    display: str | bool
    window: str
    window_delay: float


_MAKERS = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
)


def publish(
    controller: Controller,
    cluster: object,
    what: Any,
    args: tuple[Any, ...],
    options: ServiceOptions,
) -> Service:
    """See `Cluster.publish`; ``cluster`` stays alive as long as the service is referenced."""
    with controller.pump.signals_deferred:  # an exception of a handler is not an error of ``what``
        published = _published(what, args, options)

    def begin() -> Service:
        registry = controller.services
        if not isinstance(registry, Registry):
            registry = Registry(controller, cluster)
        _check_hosts(controller, published)
        made = registry.publish(published)
        service = Service(registry.program, registry.token, made.number, published.name)
        service._cluster = cluster
        return service

    controller.check_open()
    if controller.inline and published.call_limit is not None:
        what = "end inline servers that answer nothing"
        raise UnsupportedByEngine(controller.engine.name, what, NOT_INLINE)
    return controller.pump.call(begin)


def _check_hosts(controller: Controller, published: PublishedService) -> None:
    """Raise if there can never be as many servers, on these hosts, as requested."""
    on = published.options.need().on
    known = dict(controller.agents.hosts)
    for name in on or ():
        if name not in known:
            raise NoSuchHost(name, tuple(known))
    hosts = [host for name, host in known.items() if on is None or name in on]
    most = len(hosts) if published.per == "host" else sum(host.slots for host in hosts)
    if hosts and published.count is not None and published.count > most:
        what = "hosts" if published.per == "host" else "slots"
        raise NotEnough(what, published.count, most, together=True)


def _published(what: Any, args: tuple[Any, ...], options: ServiceOptions) -> PublishedService:
    known = ServiceOptions.__annotations__
    for unknown in options.keys() - known.keys():
        raise UnknownOption(unknown, tuple(sorted(known)))
    of_tasks = SharedOptions.__annotations__
    rest: dict[str, Any] = {key: value for key, value in options.items() if key in of_tasks}
    kwargs = options.get("kwargs")
    kwargs = {} if kwargs is None else named("kwargs", kwargs)
    if what is None:
        raise WrongType(
            "publish", "takes an object, or a class or function that makes it, not None"
        )
    made = not isinstance(what, _MAKERS)
    if made and (args or kwargs):
        raise BadJob("publish", "only a class or a function takes arguments")
    per, count = options.get("per", "slot"), options.get("count")
    if per not in ("slot", "host"):
        raise BadJob("per", f"must be 'slot' or 'host', not {per!r}")
    every = whole("checkpoint_every", options.get("checkpoint_every", 0), 0)
    at_least_once = options.get("at_least_once", False)
    check_flag("at_least_once", at_least_once)
    if at_least_once and not every:
        raise BadJob(
            "at_least_once",
            ("needs checkpoint_every=, since otherwise all calls would have to be kept"),
        )
    kind = type(what) if made else what
    default = getattr(kind, "__name__", type(kind).__name__)
    spawned = SpawnOptions.of(rest)
    name = options.get("name", "")
    if not (isinstance(name, str) and name.isprintable()):
        raise BadJob("name", f"must be a string of one line, not {name!r}")
    name = name or default
    parts = dump_as(f"what makes {name}", what if made else (what, tuple(args), dict(kwargs)))
    blueprint = Blueprint(tuple(map(bytes, parts)), made)
    published = PublishedService(
        name,
        blueprint,
        replace(spawned, alone=True),
        per,
        None if count is None else whole("count", count, 1),
        whole("restarts", options.get("restarts", 3), 0),
        every,
        at_least_once,
        limit("idle_limit", options.get("idle_limit")),
        limit("call_limit", options.get("call_limit")),
        _windows(options),
    )
    published.options.checked()
    return published


def _windows(options: ServiceOptions) -> Windows | None:
    delay = duration("window_delay", options.get("window_delay", 0))
    return Windows.of(options.get("display", False), options.get("window", ""), delay)


class Service(CollectiveCalls):
    """Servers on a cluster, each with its own object, which can be called from anywhere.

    Created by `Cluster.publish`. Can be passed to tasks and to other services. ``name`` is its
    name, ``id`` a string that identifies it.
    """

    _cluster: object = None
    _retries = 0

    def __init__(
        self, client: Client, token: str, number: int, name: str, methods: Iterable[str] = ()
    ) -> None:
        self._client, self._token, self._number = client, token, number
        self.name = name
        self.methods: frozenset[str] = frozenset(methods)
        """Names of the methods of its objects, once a server is known."""

    @property
    def id(self) -> str:
        """The service's name and its number on the cluster."""
        return f"{self.name}.{self._number}"

    # Acquiring servers

    def acquire(self, timeout: float | None = None) -> Proxy:
        """A proxy of a free server, for exclusive use until it is released.

        Waits for a server: first come, first served, on the host with the fewest in use. Raises
        TimeoutError after ``timeout`` seconds, and `ServiceEnded`, `ServiceFailed` or
        `CircularCall` if no server will ever be free.
        """
        return self._proxies(self._acquired(1, timeout))[0]

    def aacquire(self) -> Acquiring:
        """`acquire` for coroutines: ``async with service.aacquire() as proxy:``, or ``await``."""
        return Acquiring(self)

    def group(self, count: int | None = None, timeout: float | None = None) -> Group:
        """Several servers at once, by default all, with ranks and messages between them.

        Waits as `acquire` does, until all of them are free. Raises `NotEnough` at once if there
        will never be that many.
        """
        wanted = 0 if count is None else whole("count", count, 1)
        return Group(self, self._proxies(self._acquired(wanted, timeout)))

    def _acquired(self, count: int, timeout: float | None) -> Granted:
        timeout = patience(timeout)
        client = self._client
        wanted = client.acquire(self._number, count, notice=True)
        try:
            granted: Granted = wanted.result(timeout)
        except BaseException as exc:
            if wanted.done() and not isinstance(exc, TimeoutError):
                raise
            client.forget(wanted)
            if not wanted.done():
                if isinstance(exc, TimeoutError):
                    raise NotInTime(f"no server of {self.name} was free", timeout or 0.0) from None
                raise
            granted = wanted.result(0)  # it was granted just now
            if not isinstance(exc, TimeoutError):
                for proxy in self._proxies(granted):
                    proxy.release()
                raise
        return granted

    def _proxies(self, granted: Granted) -> list[Proxy]:
        if not self.methods:
            self.methods = frozenset(granted.methods)
        return proxies(self, granted)

    # Calls to whichever server is free

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Result:
        """Call a method on any free server: acquire, call and release in one; does not wait.

        A call whose server dies fails with `ServerLost`, unless `options` ask for retries.
        """
        return self._call(method, pickled(self.name, method, args, kwargs))

    def call_one(self, server: int, method: str, /, *args: Any, **kwargs: Any) -> Result:
        """`call` on a certain server (`Proxy.server`), when it is free."""
        parts, server = pickled(self.name, method, args, kwargs), whole("server", server, 1)
        return self._call(method, parts, server)

    def map(self, method: str, *iterables: Iterable[Any]) -> Iterator[Any]:
        """Call a method for each item of iterables, on all servers; returns the values in order.

        All calls are made at once.
        """
        check_name(self.name, method)
        if not iterables:
            raise WrongType("map", f"takes values for {method!r}, such as map({method!r}, [1, 2])")
        for given in iterables:
            if not can_be_iterated(given):
                raise WrongType("map", f"takes lists or other iterables of values, not {given!r}")
        results = [self.call(method, *args) for args in zip(*iterables, strict=False)]

        def values() -> Iterator[Any]:
            for at in range(len(results)):
                result, results[at] = results[at], None  # type: ignore[call-overload]
                yield result.get()

        return values()

    def options(self, *, retries: int = 0) -> Service:
        """The same service, whose calls (`call`, `map`) are repeated if a server dies.

        Each call is repeated up to ``retries`` times. It may then take effect more than once.
        """
        view = Service(self._client, self._token, self._number, self.name, self.methods)
        view._cluster, view._retries = self._cluster, whole("retries", retries, 0)
        return view

    def _call(self, method: str, parts: Parts, server: int = 0, op: int = CALL) -> Result:
        result = new_result(self, method)
        acquire = functools.partial(self._client.acquire, self._number, 1, server)
        call_with_retries(acquire, self._proxies, (op, method, parts), result, self._retries)
        return result

    # All servers at once

    def _callers(self) -> list[Caller]:
        return [functools.partial(self._call, server=server) for server in servers_of(self)]

    # Its state

    def ready(self, count: int = 1, timeout: float | None = None) -> int:
        """Wait until this many servers are ready (0: all of them); returns how many are.

        Raises TimeoutError, whose message has the number that wait for slots, `NotEnough` if there
        will never be that many, and `ServiceFailed` if none can start.
        """
        count, timeout = whole("count", count, 0), patience(timeout)
        asked = self._client.ask(self._number, "ready", count)
        try:
            return int(asked.result(timeout))
        except TimeoutError:
            self._client.forget(asked)
            now = self.statistics()
            waiting = sum(server.state == "waits for a slot" for server in now.servers)
            why = f"{waiting} wait for free slots" if waiting else ""
            what = f"{self.name} has not had {counted(count or now.wanted, 'server')}"
            raise NotInTime(what, timeout or 0.0, why) from None

    def statistics(self) -> ServiceStatistics:
        """The statistics of the service and its servers; they print as a table."""
        found: ServiceStatistics = self._client.ask(self._number, "statistics").result()
        return found

    def terminate(self, *, cancel: bool = False) -> None:
        """End the service when its servers have finished the calls made so far; does not wait.

        Callers that wait for a server get `ServiceEnded`. With ``cancel`` running calls are ended,
        too.
        """
        check_flag("cancel", cancel)
        self._client.ask(self._number, "terminate", cancel).result()

    def __reduce__(self) -> tuple[Any, ...]:
        return _service_here, (self._token, self._number, self.name, sorted(self.methods))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Service) and (self._token, self._number) == (
            other._token,
            other._number,
        )

    def __hash__(self) -> int:
        return hash((self._token, self._number))

    def __repr__(self) -> str:
        return f"<Service {self.id}>"

    def _repr_html_(self) -> str | None:
        """The statistics of its servers, for notebooks; None if the cluster has ended."""
        try:
            return self.statistics()._repr_html_()
        except EncampError:  # it has ended, or its cluster has
            return None


def _service_here(token: str, number: int, name: str, methods: list[str]) -> Service:
    return Service(client_of(token), token, number, name, methods)


def servers_of(service: Service) -> list[int]:
    """The numbers of all servers of a service; waits until all of them are ready."""
    service.ready(0)
    found: list[int] = service._client.ask(service._number, "servers").result()
    return found


def new_result(service: Service, method: str) -> Result:
    """The result of a call that any free server may run; for `Parameters` as well."""
    result = Result(service._client, service.name, method)
    result.wanted_service = service._number
    return result


def apply(service: Service, method: str, parts: Parts) -> Result:
    """Call a method on any free server with the parameters in ``parts``."""
    return service._call(method, parts, op=APPLY)


class Acquiring:
    """A server that a coroutine waits for: awaiting or entering it gives the proxy."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._proxy: Proxy | None = None

    async def _acquire(self) -> Proxy:
        service = self._service
        wanted = service._client.acquire(service._number, 1, notice=True)
        try:
            granted = await wanted
        except BaseException:
            service._client.forget(wanted)
            if wanted.done() and not wanted.cancelled() and wanted.exception() is None:
                service._proxies(wanted.result())[0].release()
            raise
        return service._proxies(granted)[0]

    def __await__(self) -> Generator[Any, None, Proxy]:
        return self._acquire().__await__()

    async def __aenter__(self) -> Proxy:
        self._proxy = await self._acquire()
        return self._proxy

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._proxy is not None:
            self._proxy.release()
