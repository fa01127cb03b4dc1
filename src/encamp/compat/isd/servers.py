"""Servers, proxies and queues as clients of the ISD grid see them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from encamp.service_statistics import ServerStatistics, ServiceStatistics
from encamp.services import proxy as own
from encamp.services.result import Result

LAST = 50


class Grid(Protocol):
    """The `AbstractGrid` with the servers."""

    def statistics(self, service_id: str) -> ServiceStatistics:
        """The statistics of a service."""

    def find_server(self, service_id: str, timeout: float | None = None) -> Server:
        """Acquire a server; waits. Raises TimeoutError."""

    def release_service(self, proxy: Proxy) -> None:
        """Free a server after its last call."""


class Server:
    """One server of a service.

    ``jobs`` is how many calls it has made, ``acquired`` whether it is in use, ``time`` the mean
    time of its last 50 calls in seconds.
    """

    def __init__(self, grid: Grid, service_id: str, number: int) -> None:
        self.grid, self.service_id, self.number = grid, service_id, number
        self.proxy: Proxy | None = None
        """The proxy of the client that has acquired it, if that is one of this grid."""
        self._times: deque[float] = deque(maxlen=LAST)

    @property
    def _facts(self) -> ServerStatistics | None:
        known = self.grid.statistics(self.service_id)
        return next((one for one in known.servers if one.server == self.number), None)

    @property
    def host(self) -> str:
        """The name of the server's host; empty before it has started, and when it has ended."""
        return "" if self._facts is None else self._facts.host

    @property
    def jobs(self) -> int:
        """The number of its calls."""
        return 0 if self._facts is None else self._facts.calls

    @property
    def acquired(self) -> bool:
        """Whether it is in use."""
        return self._facts is not None and self._facts.state == "held"

    @property
    def time(self) -> float:
        """Mean time of its last 50 calls, or of those reported by `AbstractGrid.add_time`."""
        if self._times:
            return sum(self._times) / len(self._times)
        return 0.0 if self._facts is None else self._facts.mean

    def add_time(self, seconds: float) -> None:
        """Record a time that a client has measured itself."""
        self._times.append(seconds)

    def __repr__(self) -> str:
        return f"<Server {self.number} of {self.service_id}>"


class Proxy:
    """Every public name is a method of the published instance; calls return a `Result` at once."""

    def __init__(self, server: Server, proxy: own.Proxy) -> None:
        self._server, self._proxy = server, proxy

    def _release_service(self) -> None:
        """Release the server after the last call."""
        self._proxy.release()
        if self._server.proxy is self:
            self._server.proxy = None

    @property
    def _selfrelease(self) -> bool:
        """False; set to True, it frees the server after the last call."""
        return False

    @_selfrelease.setter
    def _selfrelease(self, wanted: bool) -> None:
        if wanted:
            self._server.grid.release_service(self)

    def __getattr__(self, name: str) -> Callable[..., Result]:
        if name.startswith("__"):
            raise AttributeError(name)
        proxy = self._proxy

        def call(*args: Any, **kwargs: Any) -> Result:
            return proxy.call(name, *args, **kwargs)

        return call

    def __repr__(self) -> str:
        return f"<Proxy of {self._server!r}>"


def server_of(proxy: Proxy) -> Server:
    """The server of a proxy; a function, because a proxy has the instance's names."""
    return proxy._server


def release(proxy: Proxy) -> None:
    """Release the server after the last call."""
    proxy._release_service()


def call(proxy: Proxy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
    """Call a method of the instance."""
    return proxy._proxy.call(name, *args, **kwargs)


class FreeServers:
    """The free servers of a service, as a queue: taking one acquires it, putting it releases it."""

    def __init__(self, grid: Grid, service_id: str) -> None:
        self._grid, self._service_id = grid, service_id

    def qsize(self) -> int:
        """The number of free servers."""
        known = self._grid.statistics(self._service_id)
        return sum(server.state == "free" for server in known.servers)

    def empty(self) -> bool:
        """Whether no server is free."""
        return not self.qsize()

    def get(self, block: bool = True, timeout: float | None = None) -> Server:
        """Acquire a free server; waits. Raises TimeoutError."""
        return self._grid.find_server(self._service_id, timeout if block else 0.0)

    def put(self, server: Server) -> None:
        """Release a server."""
        if server.proxy is not None:
            server.proxy._release_service()
