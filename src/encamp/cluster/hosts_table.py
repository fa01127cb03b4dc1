"""Hosts, slots and tasks as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from encamp.cluster.events import Host
from encamp.cluster.scheduler import Scheduler
from encamp.cluster.task import SpawnedTask
from encamp.units import counted, size_text

_HEADS = ("host", "slots", "free", "cores", "memory", "gpus", "running")


def rows_of(
    hosts: Iterable[Host], scheduler: Scheduler, tasks: Sequence[SpawnedTask]
) -> tuple[Sequence[str], list[Sequence[str]], str]:
    """Column heads, a row for each host with its running tasks, and a line for waiting tasks."""
    rows: list[Sequence[str]] = []
    running: dict[str, list[SpawnedTask]] = {}
    for task in tasks:
        if task.running() and task.host:
            running.setdefault(task.host, []).append(task)
    for host in hosts:
        record = scheduler.hosts.get(host.name)
        free = len(record.free) if record is not None else 0
        names = ", ".join(task.name for task in running.get(host.name, ())[:8])
        more = len(running.get(host.name, ())) - 8
        facts = (host.slots, free, host.cores, size_text(host.memory), len(host.gpus))
        rows.append(
            (host.name, *map(str, facts), names + (f" and {more} more" if more > 0 else ""))
        )
    states = Counter("running" if task.running() else "waiting" for task in tasks)
    words = f"{counted(states['running'], 'task')} running, {states['waiting']} waiting"
    return _HEADS, rows, words


def table(hosts: Iterable[Host], scheduler: Scheduler, tasks: Sequence[SpawnedTask]) -> str:
    """A line for each host with its running tasks, and one for waiting tasks."""
    heads, found, words = rows_of(hosts, scheduler, tasks)
    rows = [heads, *found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, words])
