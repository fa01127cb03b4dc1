"""The ISD grid's `AbstractGrid` and its subclasses, on clusters."""

from __future__ import annotations

import itertools
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

from encamp.cluster.cluster import Cluster
from encamp.compat.isd.hosts import Host, create_host_list
from encamp.compat.isd.servers import FreeServers, Proxy, Server, call, release, server_of
from encamp.errors import BadJob, ServiceEnded, WrongLength, WrongType
from encamp.service_statistics import ServiceStatistics
from encamp.services.argument_checks import items, named
from encamp.services.collective_calls import gather
from encamp.services.copy_files import copy_files
from encamp.services.proxy import Proxy as OwnProxy
from encamp.services.result import Result
from encamp.services.service import Service, servers_of
from encamp.wire.protocol import ANY

_HERE = frozenset({"localhost", "127.0.0.1", "::1", socket.gethostname()})
_WINDOW = "80x24"
EXCLUDE = ("cns/", "svn")


class _Given:
    cluster: Cluster | None = None


def use_cluster(cluster: Cluster | None) -> None:
    """Let new grids use an open cluster; None for separate clusters."""
    _Given.cluster = cluster


class _Instance:
    """Creates a server's object: the published instance, in the environment of its host."""

    def __init__(self, instance: Any, hosts: dict[str, Host], sources: dict[str, str]) -> None:
        self._instance, self._hosts, self._sources = instance, hosts, sources

    def made(self) -> Any:
        """Called in the server."""
        here = socket.gethostname()
        host = self._hosts.get(here) or next(iter(self._hosts.values()), None)
        if host is not None:
            host.enter(self._sources.get(host.name, ""))
        return self._instance


class AbstractGrid(Thread):
    """Publishes instances, and lends their servers to those that acquire them.

    Each published service has one server for each of ``hosts``, on its own cluster: with the engine
    ``local`` if all hosts are this one, otherwise by MPI; ``engine`` and its options choose
    another. On an open cluster (`use_cluster`) it has at most as many as there are slots.
    """

    def __init__(
        self,
        hosts: Iterable[Host | str],
        src_path: str = "",
        display: str | None = None,
        X11_delay: float = 0.0,  # noqa: N803 - the grid's name
        debug: bool = False,
        verbose: bool = False,
        shared_temp_path: str | bool | None = None,
        *,
        engine: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name="isd-grid", daemon=True)
        self.hosts = [
            host if isinstance(host, Host) else create_host_list([host])[0]
            for host in items("hosts", hosts, "hosts or their names")
        ]
        self.servers: dict[str, list[Server]] = {}
        self.queues: dict[str, FreeServers] = {}
        self.temp_paths: dict[str, str] = {}
        self.shared_temp_path = shared_temp_path
        self.src_files: list[str] = []
        self.copied_files: list[str] = []
        self.loader_filename = ""
        self.others: dict[str, Any] = {}
        self.debug, self.verbose = debug, verbose
        self.debug_out: TextIO | None = None
        self.display, self.X11_delay, self.window_size = display, X11_delay, _WINDOW
        self._src_path, self._engine, self._options = src_path, engine, options
        self._cluster = _Given.cluster
        self._services: dict[str, Service] = {}
        self._own: dict[str, Cluster] = {}
        self._held: dict[int, Proxy] = {}
        self._numbers = itertools.count(1)
        self._ended: set[str] = set()
        self._halted = Event()

    # Publishing

    def create_service_id(self, instance: Any) -> str:
        """A name that no other service of this grid has."""
        return f"{type(instance).__name__}.{next(self._numbers)}"

    def publish(self, instance: Any) -> str:
        """Start a server with a copy of an instance for each host; the service's id."""
        if self._cluster is not None and any(host.own_python for host in self.hosts):
            why = "on an open cluster, give Cluster(interpreter=...) instead"
            raise BadJob("python of hosts", why)
        service_id = self.create_service_id(instance)
        cluster = self._cluster or self._open()
        count = min(len(self.hosts), cluster.slots)
        hosts = {host.name: host for host in self.hosts}
        maker = _Instance(instance, hosts, {name: self._source(name) for name in hosts})
        service = cluster.publish(
            maker.made,
            count=count,
            name=type(instance).__name__,
            display=self.display or False,
            window=self.window_size,
            window_delay=self.X11_delay,
        )
        self._services[service_id] = service
        if cluster is not self._cluster:
            self._own[service_id] = cluster
        self.servers[service_id] = []
        self.queues[service_id] = FreeServers(self, service_id)
        service.ready(1)
        for one in service.statistics().servers:
            self.add_server(Server(self, service_id, one.server))
        self.dp(f"published {service_id} with {count} servers")
        return service_id

    def _open(self) -> Cluster:
        names = [host.name for host in self.hosts]
        here = all(name in _HERE for name in names)
        own = {"interpreter": pythons} if (pythons := self._pythons(here=here)) else {}
        options = own | self._options
        if self._engine is not None:
            return Cluster(self._engine, slots=len(names), **options)
        if here:
            return Cluster("local", slots=len(names), **options)
        return Cluster("mpi", hosts=names, **options)

    def _pythons(self, *, here: bool) -> dict[str, str]:
        """Interpreters by hosts; all names of this host count as one. Raises `BadJob`."""
        found: dict[str, str] = {}
        for host in self.hosts:
            name = ANY if here else host.name
            if found.setdefault(name, host.own_python) != host.own_python:
                what = f"python {host.own_python!r} of {host.name}"
                raise BadJob(what, "all servers of one host have the same interpreter")
        return {name: python for name, python in found.items() if python}

    def _source(self, host: str) -> str:
        """The folder where servers of a host find modules."""
        return str(self.shared_temp_path or self.temp_paths.get(host) or self._src_path or "")

    def service(self, service_id: str) -> Service:
        """encamp's service for an id. Raises `ServiceEnded`, and `BadJob` for an unknown id."""
        if service_id in self._ended:
            raise ServiceEnded(service_id)
        if service_id not in self._services:
            known = ", ".join(self._services) or "none"
            why = f"there is no service {service_id!r} on this grid; its services are {known}"
            raise BadJob("service_id", why)
        return self._services[service_id]

    def statistics(self, service_id: str) -> ServiceStatistics:
        """The statistics of a service and its servers."""
        return self.service(service_id).statistics()

    def terminate(self, service_id: str | None = None) -> None:
        """End a service (None: all), when its servers have finished the calls made so far."""
        for one in [service_id] if service_id is not None else list(self._services):
            service = self.service(one)
            self.release_all(one)
            service.terminate()
            del self._services[one]
            self._ended.add(one)
            self.servers.pop(one, None)
            self.queues.pop(one, None)
            if one in self._own:
                self._own.pop(one).close()
        if service_id is None:
            self._halted.set()

    def ishalted(self) -> bool:
        """Whether the whole grid was terminated."""
        return self._halted.is_set()

    def run(self) -> None:
        """Wait until the grid is terminated: the cluster does the work of the grid's thread."""
        self._halted.wait()

    # Servers

    def add_server(self, server: Server) -> None:
        """Add a server; for internal use."""
        known = self.servers.setdefault(server.service_id, [])
        if all(one.number != server.number for one in known):
            known.append(server)

    def find_server(self, service_id: str, timeout: float | None = None) -> Server:
        """Acquire a free server; waits; for internal use."""
        server = self._server(service_id, self.service(service_id).acquire(timeout))
        assert server.proxy is not None  # noqa: S101 - see `_server`
        return server

    def _server(self, service_id: str, proxy: OwnProxy) -> Server:
        known = self.servers[service_id]
        number = proxy.server
        server = next((one for one in known if one.number == number), None)
        if server is None:  # in the place of one that died
            live = {one.server for one in self.statistics(service_id).servers}
            known[:] = [one for one in known if one.number in live]
            server = Server(self, service_id, number)
            self.add_server(server)
        server.proxy = self._held[number] = Proxy(server, proxy)
        return server

    def acquire_service(self, service_id: str) -> Proxy:
        """Wait for a free server; returns its proxy."""
        proxy = self.find_server(service_id).proxy
        assert proxy is not None  # noqa: S101 - see `_server`
        return proxy

    def release_service(self, proxy: Proxy) -> None:
        """Free a server after its last call."""
        if not isinstance(proxy, Proxy):
            raise WrongType("proxy", f"must be what acquire_service returned, not {proxy!r}")
        self._held.pop(server_of(proxy).number, None)
        release(proxy)

    def release_all(self, service_id: str | None = None) -> None:
        """Release all servers that were acquired here (of one service)."""
        for proxy in list(self._held.values()):
            if service_id in (None, server_of(proxy).service_id):
                self.release_service(proxy)

    def add_time(self, server: Server, seconds: float) -> None:
        """Record how long a call of a server took, as the client has measured it."""
        server.add_time(seconds)

    # Collectives

    def broadcast(self, service_id: str, func: str, *args: Any, **kwargs: Any) -> list[Result]:
        """Call a method on every server; returns the results in the order of `servers`."""
        servers = servers_of(self.service(service_id))
        return [self._call(service_id, server, func, args, kwargs) for server in servers]

    def scatter(
        self,
        service_id: str,
        func: str,
        arglist: Iterable[Any],
        kwlist: Iterable[Mapping[str, Any]] | None = None,
    ) -> list[Result]:
        """`broadcast` with separate arguments; a dict, a string or a non-iterable value is one.

        Raises `WrongLength` unless there is one for each server.
        """
        servers = servers_of(self.service(service_id))
        given = items("arglist", arglist, "arguments, one for each server")
        each = [_as_arguments(args) for args in given]
        by_name: list[dict[str, Any]] = [{}] * len(servers)
        if kwlist is not None:
            by_name = [named("kwlist", one) for one in items("kwlist", kwlist, "dicts")]
        for what, count in (("arguments", len(each)), ("named arguments", len(by_name))):
            if count != len(servers):
                raise WrongLength(what, count, len(servers))
        return [
            self._call(service_id, server, func, args, kwargs)
            for server, args, kwargs in zip(servers, each, by_name, strict=True)
        ]

    def _call(
        self, service_id: str, server: int, func: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Result:
        """Call one server: by its proxy if it is held here, or when it is free."""
        held = self._held.get(server)
        if held is not None:
            return call(held, func, args, kwargs)
        return self.service(service_id).call_one(server, func, *args, **kwargs)

    def gather(self, results: Iterable[Result]) -> list[Any]:
        """The values of results, in their order; waits, and raises the error of a call."""
        return gather(results)

    # Files

    def create_subroot(self, root: str) -> str:
        """A new folder of this grid below ``root``."""
        Path(root).mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix="isd-", dir=root)

    def initialise(self, src_path: str, src_files: Iterable[str]) -> None:
        """Create the folders that hosts work in, and copy source files there."""
        self.src_files = list(src_files)
        for host in self.hosts:
            path = str(self.shared_temp_path or host.temp_path or "")
            if not path:
                path = tempfile.mkdtemp(prefix="isd-")
            if not self.shared_temp_path:
                host.temp_path = path
            self.temp_paths[host.name] = path
            Path(path).mkdir(parents=True, exist_ok=True)
        if self.src_files:
            self.copy_files(src_path, self.src_files)

    def copy_files(
        self,
        rootdir: str,
        filelist: Iterable[str],
        hosts: Iterable[Host] | None = None,
        exclude: Iterable[str] = EXCLUDE,
    ) -> list[str]:
        """Copy files below a folder to the working folder of each host, at the same relative paths.

        A pattern's name is also looked for in all folders below the pattern's. Paths that contain
        one of ``exclude`` are left out.
        """
        wanted = list(self.hosts if hosts is None else hosts)
        if not all(self._folder_of(host) for host in wanted):
            self.initialise(rootdir, [])
        cluster = self._cluster or self._open()
        try:
            known = [host.name for host in cluster.hosts()]
            targets = {
                host.name if host.name in known else known[0]: self._folder_of(host)
                for host in wanted
            }
            paths = copy_files(
                cluster, rootdir, filelist, targets, hosts=list(targets), exclude=exclude
            )
        finally:
            if cluster is not self._cluster:
                cluster.close()
        self.copied_files += [path for path in paths if path not in self.copied_files]
        return paths

    def _folder_of(self, host: Host) -> str:
        """The folder for files of a host."""
        return str(self.shared_temp_path or self.temp_paths.get(host.name, ""))

    def set_loader(self, src_path: str, filename: str = "") -> None:
        """Let servers find modules in a folder; ``filename`` is ignored."""
        self._src_path, self.loader_filename = src_path, filename

    # Debug messages

    def set_debug(self, debug: bool, verbose: bool = False) -> None:
        """Let `dp` print, on standard output, too, if wanted."""
        self.debug, self.verbose = debug, verbose

    def dp(self, text: str) -> None:
        """Print a debug message, to ``debug_out`` or standard error."""
        if self.debug:
            out = self.debug_out or (sys.stdout if self.verbose else sys.stderr)
            out.write(f"{text}\n")
            out.flush()


def _as_arguments(args: Any) -> tuple[Any, ...]:
    if isinstance(args, str | bytes | dict) or not isinstance(args, Iterable):
        return (args,)
    return tuple(args)


class Grid(AbstractGrid):
    """A grid on whatever engine fits its hosts."""


class FileBasedGrid(AbstractGrid):
    """Like any grid; in the ISD grid, its servers were reached through files."""


class PyroGrid(AbstractGrid):
    """Like any grid; in the ISD grid, its servers were reached through Pyro."""
