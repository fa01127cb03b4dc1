"""A proxy: calls to an acquired server."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol, Self

from encamp.errors import ProxyReleased, words_of
from encamp.loop.event_loop import by_signal
from encamp.services.argument_checks import check_name
from encamp.services.client import Client, Outgoing, Route
from encamp.services.letters import CALL, GROUP, READ, WRITE
from encamp.services.result import Result
from encamp.wire.frames import Parts
from encamp.wire.pickling import cannot_travel, dump, dump_arguments

_log = logging.getLogger("encamp")


class ProxiedService(Protocol):
    """The service of a proxy's server."""

    name: str
    methods: frozenset[str]
    _client: Client


class Released:
    """A context manager, also for coroutines, whose end releases what it holds, without waiting."""

    __slots__ = ()

    def release(self) -> None:
        """Free what it holds when the calls made so far have ended."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class Proxy(Released):
    """Calls methods of one server's object, in order, and releases the server.

    ``proxy.method(...)`` and ``proxy.attribute`` return a `Result` at once; ``proxy.attribute = x``
    sets it. `release` frees the server after the last of these calls; so does the end of a ``with``
    or ``async with`` block. Use `call` for methods of the object that have the name of a proxy's
    own method (``release``, ``call``, ``read``, ``write``). Any thread may use a proxy, and so may
    a task or another service that it is passed to. After its release it raises `ProxyReleased`.
    """

    __slots__ = (
        "__weakref__",
        "_client",
        "_grouped",
        "_last",
        "_lease",
        "_passed",
        "_released",
        "_route",
        "_service",
    )

    def __init__(
        self, service: ProxiedService, route: Route, lease: int, *, passed: bool = False
    ) -> None:
        own = object.__setattr__
        own(self, "_service", service)
        own(self, "_client", service._client)
        own(self, "_route", route)
        own(self, "_lease", lease)
        own(self, "_passed", passed)
        own(self, "_grouped", False)
        own(self, "_released", False)
        own(self, "_last", None)

    # Calls

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Result:
        """Call ``object.method(*args, **kwargs)``; returns a result, and does not wait for it.

        Raises `CannotTravel` for arguments that cannot be pickled, and `ProxyReleased`.
        """
        return send(self, CALL, method, pickled(self._service.name, method, args, kwargs))

    def read(self, name: str) -> Result:
        """The value of an attribute of the object; does not wait for it."""
        check_name(self._service.name, name)
        return send(self, READ, name, [])

    def write(self, name: str, value: Any) -> Result:
        """Set an attribute of the object; the result is None when it is set."""
        return send(self, WRITE, name, pickled(self._service.name, name, (value,), {}))

    def release(self) -> None:
        """Free the server when the calls made so far have ended.

        Does not wait. Does nothing when called again.
        """
        if not self._released:
            object.__setattr__(self, "_released", True)
            self._client.release(
                self._route, self._lease, self._last, shared=self._passed, grouped=self._grouped
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"a proxy has no {name!r}; it has no private names")
        if name in self._service.methods:
            return _Method(self, name)
        result = self.read(name)
        result.hint = f"it has {', '.join(sorted(self._service.methods)) or 'none'}"
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"a proxy has no {name!r}; it has no private names")
        self.write(name, value).add_done_callback(_complain)

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a proxy cannot delete attributes of the object")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._service.methods]

    # Its life

    @property
    def server(self) -> int:
        """The server's number, which is unique."""
        return int(self._route.server)

    def __del__(self) -> None:
        if not (self._released or self._passed):
            self._client.drop(self._route, self._lease, self._last, grouped=self._grouped)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._released:
            raise ProxyReleased(self._service.name)
        object.__setattr__(self, "_passed", True)
        route = self._route
        return _passed, (self._service, route.server, route.to, self._lease)

    def __repr__(self) -> str:
        state = ": released" if self._released else ""
        return f"<Proxy of {self._service.name}, server {self._route.server}{state}>"


def _passed(service: ProxiedService, server: int, to: int, lease: int) -> Proxy:
    return Proxy(service, Route(server, to), lease, passed=True)


def send(
    proxy: Proxy, operation: int, name: str, parts: Parts, result: Result | None = None
) -> Result:
    """Send a call to a proxy's server; returns its result, a new one by default.

    A function, like `make_group`, because a proxy has its object's names. Raises `ProxyReleased`.
    """
    if proxy._released:
        raise ProxyReleased(proxy._service.name)
    if result is None:
        result = Result(proxy._client, proxy._service.name, name)
    object.__setattr__(proxy, "_last", result)
    proxy._client.call(Outgoing(proxy._route, proxy._lease, operation, name, parts, result))
    return result


def make_group(members: Sequence[Proxy]) -> None:
    """Tell servers that they are one group, and which rank each has."""
    tasks, group = tuple(member._route.to for member in members), members[0]._lease
    for rank, member in enumerate(members):
        payload = dump((group, rank, tasks))
        member._client.call(Outgoing(member._route, member._lease, GROUP, "", payload, None))
        object.__setattr__(member, "_grouped", True)  # its release goes the same way


class _Method:
    """A method of a proxy's object."""

    __slots__ = ("_name", "_proxy")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self._proxy, self._name = proxy, name

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        proxy, name = self._proxy, self._name
        return send(proxy, CALL, name, pickled(proxy._service.name, name, args, kwargs))

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy!r}>"


def pickled(service: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parts:
    """The arguments of a method. Raises `CannotTravel`, and `BadJob` for what names no method."""
    check_name(service, name)
    try:
        return dump_arguments(args, kwargs)
    except Exception as exc:
        if by_signal(exc):
            raise
        raise cannot_travel(f"an argument of {service}.{name}", exc) from exc


def _complain(result: Future[Any]) -> None:
    """Log the error of an assignment, which returns no result."""
    error = result.exception()
    if error is not None:
        assert isinstance(result, Result)  # noqa: S101 - see `write`
        _log.warning("%s.%s could not be set: %s", result.service, result.call, words_of(error))


def proxies(service: ProxiedService, granted: Any) -> list[Proxy]:
    """The proxies of servers that were granted."""
    return [
        Proxy(service, Route(server, 0 if granted.relayed else task), lease)
        for server, task, lease in granted.leases
    ]
