"""Whether hosts can connect to each other's ports, as most engines need; for ``encamp doctor``."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil

from encamp.cli.checks import Line
from encamp.cluster.cluster import SPAWNER, Cluster
from encamp.cluster.task import SpawnedTask
from encamp.slot.calls import current_task

_KNOCKS = 2.0
"""Seconds in which a port has to be reached."""
_WITHIN = 30.0
"""Seconds that all have for each step."""
_AT_ONCE = 32
_REMEDY = "let the hosts connect to each other at any port above 1023, or see docs/dask.md"


class Door(NamedTuple):
    """An open port, and the addresses of its host."""

    addresses: list[str]
    port: int


@contextmanager
def _open() -> Iterator[Door]:
    """A port of this host that accepts connections and ignores them."""
    with socket.create_server(("", 0), backlog=256) as door:
        yield Door(_addresses(), door.getsockname()[1])


def _addresses() -> list[str]:
    found = [
        one.address
        for name, all_of_it in psutil.net_if_addrs().items()
        for one in all_of_it
        if one.family == socket.AF_INET and psutil.net_if_stats()[name].isup
    ]
    outer = [address for address in found if not address.startswith("127.")]
    return outer or found


def _closed(doors: Mapping[str, Door]) -> list[str]:
    """The hosts whose ports cannot be reached from this one."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        opens = list(pool.map(_opens, doors.values()))
    return [name for name, does in zip(doors, opens, strict=True) if not does]


def _opens(door: Door) -> bool:
    for address in door.addresses:
        try:
            socket.create_connection((address, door.port), timeout=_KNOCKS).close()
        except OSError:
            continue
        return True
    return False


def _knock() -> None:
    """Test the ports of the other hosts; the program names them, and says when all are done."""
    me = current_task()
    with _open() as door:
        me.send(SPAWNER, tuple(door))
        if (got := me.receive(_WITHIN)) is not None:
            me.send(SPAWNER, _closed({name: Door(*at) for name, at in got.message.items()}))
            me.receive(_WITHIN)


def ports(cluster: Cluster) -> dict[str, Line]:
    """A line for each host of a cluster, none for a single host."""
    names = [host.name for host in cluster.hosts()]
    here = socket.gethostname()
    if set(names) <= {here}:
        return {}
    tasks = {name: cluster.spawn(_knock, on=name, name="ports", notify=False) for name in names}
    with _open() as door:
        doors = {name: Door(*at) for name, at in _heard(cluster, tasks).items()}
        doors.setdefault(here, door)
        for name in doors.keys() & tasks.keys():
            cluster.send(tasks[name], {n: tuple(d) for n, d in doors.items() if n != name})
        closed = {here: _closed({name: d for name, d in doors.items() if name != here})}
        closed.update(_heard(cluster, {name: tasks[name] for name in doors.keys() & tasks.keys()}))
    for task in tasks.values():
        cluster.send(task, None)
    return {name: _line(closed[name]) for name in closed}


def _heard(cluster: Cluster, tasks: Mapping[str, SpawnedTask]) -> dict[str, Any]:
    """The next message of each task, if it arrives in time."""
    found: dict[str, Any] = {}
    until = time.monotonic() + _WITHIN
    for name, task in tasks.items():
        got = cluster.receive(max(0.0, until - time.monotonic()), source=task)
        if got is not None and isinstance(got.message, list | tuple):
            found[name] = got.message
    return found


def _line(closed: Collection[str]) -> Line:
    if not closed:
        return Line("ok", "ports", "the ports of all other hosts can be reached")
    return Line("note", "ports", f"no port can be reached of {', '.join(sorted(closed))}", _REMEDY)
