"""A proxy: calls to an acquired server."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol

from encamp.errors import ProxyReleased, words_of
from encamp.loop.event_loop import by_signal
from encamp.services.argument_checks import check_name
from encamp.services.client import Client, Outgoing, Route
from encamp.services.letters import CALL, READ, WRITE
from encamp.services.result import Result
from encamp.wire.frames import Parts
from encamp.wire.pickling import cannot_travel, dump_arguments

_log = logging.getLogger("encamp")


class ProxiedService(Protocol):
    """The service of a proxy's server."""

    name: str
    methods: frozenset[str]
    _client: Client


class Proxy:
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
        return self._send(CALL, method, pickled(self._service.name, method, args, kwargs))

    def read(self, name: str) -> Result:
        """The value of an attribute of the object; does not wait for it."""
        check_name(self._service.name, name)
        return self._send(READ, name, [])

    def write(self, name: str, value: Any) -> Result:
        """Set an attribute of the object; the result is None when it is set."""
        return self._send(WRITE, name, pickled(self._service.name, name, (value,), {}))

    def release(self) -> None:
        """Free the server when the calls made so far have ended.

        Does not wait. Does nothing when called again.
        """
        if not self._released:
            object.__setattr__(self, "_released", True)
            self._client.release(
                self._route, self._lease, self._last, shared=self._passed, grouped=self._grouped
            )

    def _send(self, op: int, name: str, parts: Parts, result: Result | None = None) -> Result:
        if self._released:
            raise ProxyReleased(self._service.name)
        if result is None:
            result = Result(self._client, self._service.name, name)
        object.__setattr__(self, "_last", result)
        self._client.call(Outgoing(self._route, self._lease, op, name, parts, result))
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"a proxy has no {name!r}; it has no private names")
        if name in self._service.methods:
            return _Method(self, name)
        result = self.read(name)
        result._hint = f"it has {', '.join(sorted(self._service.methods)) or 'none'}"
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

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    async def __aenter__(self) -> Proxy:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

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


class _Method:
    """A method of a proxy's object."""

    __slots__ = ("_name", "_proxy")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self._proxy, self._name = proxy, name

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        proxy, name = self._proxy, self._name
        return proxy._send(CALL, name, pickled(proxy._service.name, name, args, kwargs))

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
