"""The check whether hosts can connect to each other's ports, as most engines need."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil

from encamp.cli.doctor.check_result import CheckResult
from encamp.cluster.cluster import SPAWNER, Cluster
from encamp.cluster.task import SpawnedTask
from encamp.slot.current_task import current_task

_CONNECT_WITHIN = 2.0
"""Timeout of a connection in seconds."""
_WITHIN = 30.0
"""Seconds that all hosts together may take for each step."""
_AT_ONCE = 32
_REMEDY = "let the hosts connect to each other at any port above 1023, or see docs/dask.md"


class OpenPort(NamedTuple):
    """A port that accepts connections, and the addresses of its host."""

    addresses: list[str]
    port: int


@contextmanager
def _open_port() -> Iterator[OpenPort]:
    """A context with a port of this host that accepts connections and ignores them."""
    with socket.create_server(("", 0), backlog=256) as opened:
        yield OpenPort(_addresses(), opened.getsockname()[1])


def _addresses() -> list[str]:
    found = [
        one.address
        for name, all_of_it in psutil.net_if_addrs().items()
        for one in all_of_it
        if one.family == socket.AF_INET and psutil.net_if_stats()[name].isup
    ]
    outer = [address for address in found if not address.startswith("127.")]
    return outer or found


def _closed(open_ports: Mapping[str, OpenPort]) -> list[str]:
    """The hosts with ports that this host cannot connect to."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        opens = list(pool.map(_accepts, open_ports.values()))
    return [name for name, does in zip(open_ports, opens, strict=True) if not does]


def _accepts(opened: OpenPort) -> bool:
    for address in opened.addresses:
        try:
            socket.create_connection((address, opened.port), timeout=_CONNECT_WITHIN).close()
        except OSError:
            continue
        return True
    return False


def _test_ports() -> None:
    """A task: open a port, and test those of the other hosts, which the program sends.

    The port stays open until the program reports that all hosts are done.
    """
    me = current_task()
    with _open_port() as opened:
        me.send(SPAWNER, tuple(opened))
        if (got := me.receive(_WITHIN)) is not None:
            me.send(SPAWNER, _closed({name: OpenPort(*at) for name, at in got.message.items()}))
            me.receive(_WITHIN)


def ports(cluster: Cluster) -> dict[str, CheckResult]:
    """The result for each host of a cluster; empty if there is a single host."""
    names = [host.name for host in cluster.hosts()]
    here = socket.gethostname()
    if set(names) <= {here}:
        return {}
    tasks = {
        name: cluster.spawn(_test_ports, on=name, name="ports", notify=False) for name in names
    }
    with _open_port() as opened:
        open_ports = {name: OpenPort(*at) for name, at in _answers(cluster, tasks).items()}
        open_ports.setdefault(here, opened)
        for name in open_ports.keys() & tasks.keys():
            cluster.send(tasks[name], {n: tuple(d) for n, d in open_ports.items() if n != name})
        closed = {here: _closed({name: d for name, d in open_ports.items() if name != here})}
        closed.update(
            _answers(cluster, {name: tasks[name] for name in open_ports.keys() & tasks.keys()})
        )
    for task in tasks.values():
        cluster.send(task, None)
    return {name: _line(closed[name]) for name in closed}


def _answers(cluster: Cluster, tasks: Mapping[str, SpawnedTask]) -> dict[str, Any]:
    """The next message of each task, if it arrives in time."""
    found: dict[str, Any] = {}
    until = time.monotonic() + _WITHIN
    for name, task in tasks.items():
        got = cluster.receive(max(0.0, until - time.monotonic()), source=task)
        if got is not None and isinstance(got.message, list | tuple):
            found[name] = got.message
    return found


def _line(closed: Collection[str]) -> CheckResult:
    if not closed:
        return CheckResult("ok", "ports", "the ports of all other hosts can be reached")
    return CheckResult(
        "note", "ports", f"cannot connect to any port of {', '.join(sorted(closed))}", _REMEDY
    )
