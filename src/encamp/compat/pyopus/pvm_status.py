"""The state of the virtual machine for users: its hosts and tasks, as data and as text."""

from __future__ import annotations

import os
import sys
from typing import Any

from encamp.compat.pyopus.pvm_hosts import host_table_of
from encamp.compat.pyopus.pvm_id_bits import host_of
from encamp.compat.pyopus.spawner import Spawner, SpawnerHost


def usable(ours: Spawner) -> list[SpawnerHost]:
    """The hosts that have slots for tasks, and answer."""
    hosts = list(ours.hosts.values())
    return [host for host in hosts if not host.aside and host.slots - {0}]


def status(ours: Spawner) -> dict[str, Any]:
    """See `encamp.compat.pyopus.pvm.PVM.pvmStatus`."""
    host_table = host_table_of(ours)
    answering = {host_table.dtid(host.name) for host in usable(ours)}
    known = {host_table.dtid(host.name): host for host in ours.hosts.values()}
    counts = [host_of(task.tid) for task in ours.ids.values()]
    hosts = {
        dtid: {
            "speed": host.speed,
            "arch": host.arch,
            "name": host.name,
            "task_count": counts.count(dtid),
            "ncpu": known[dtid].cores if dtid in known else None,
            "responsive": dtid in answering,
        }
        for dtid, host in host_table.hosts.items()
    }
    own = host_table.own_tid
    tasks = {own: _task(0, own, sys.argv[0], os.getpid())}
    tasks |= {task.tid: _task(own, task.tid, ours.titles[n], -1) for n, task in ours.ids.items()}
    return {
        "hosts": hosts,
        "tasks": tasks,
        "narch": len({host["arch"] for host in hosts.values()}),
    }


def _task(parent: int, tid: int, name: str, pid: int) -> dict[str, Any]:
    return {"parent": parent, "dtid": host_of(tid), "flags": 0, "name": name, "pid": pid}


def as_text(status: dict[str, Any]) -> str:
    """The state of the machine as text, as PyOPUS formats it."""
    lines = [f"Architectures: {status['narch']}", "", "Hosts and tasks:"]
    for dtid, host in status["hosts"].items():
        cores = "??" if host["ncpu"] is None else f"{host['ncpu']:<2}"
        reach = "" if host["responsive"] else "not responsive"
        facts = f"speed={host['speed']:<7} arch={host['arch']} ncpu={cores}"
        lines.append(f"dtid={dtid:<7x} {facts} {reach} {host['name']}")
        for tid, task in status["tasks"].items():
            if task["dtid"] == dtid:
                facts = f"flags={task['flags']:<3} pid={task['pid']:<7} '{task['name']}'"
                lines.append(f"\ttid={tid:<7x} {facts}")
    return "\n".join(lines) + "\n"
