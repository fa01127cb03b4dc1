"""The state of MPI's hosts and slots for users, as data and as text."""

from __future__ import annotations

from typing import Any

from encamp.compat.pyopus.spawner import Spawner


def status(spawner: Spawner, free_hosts: set[Any]) -> dict[str, Any]:
    """See `encamp.compat.pyopus.mpi.MPI.vmStatus`; ``free_hosts``: ids of those with free slots."""
    slots = {slot for host in spawner.hosts.values() for slot in host.slots}
    number = {**spawner.jobs_in, **spawner.number}
    return {
        "hosts": {
            name: {
                "slots": set(host.slots),
                "freeSlots": set(spawner.free_of(host)),
                "ncpu": host.cores,
            }
            for name, host in spawner.hosts.items()
        },
        "slots": {
            slot: {"host": spawner.host_of[slot], "taskNumber": number.get(slot, -1)}
            for slot in sorted(slots)
        },
        "usedSlots": slots - spawner.free,
        "freeSlots": spawner.free,
        "freeHosts": free_hosts,
        "slot2host": dict(spawner.host_of),
    }


def as_text(spawner: Spawner) -> str:
    """Hosts with their cores, free slots, and slots with tasks, as PyOPUS formats them."""
    return "".join(_host_lines(spawner, name) for name in spawner.hosts)


def _host_lines(spawner: Spawner, name: str) -> str:
    host = spawner.hosts[name]
    free, number = spawner.free_of(host), {**spawner.jobs_in, **spawner.number}
    taken = [slot for slot in host.slots if slot not in free]
    lines = [f"{name} ncpu={host.cores} free slots: {[*free]}\n"]
    lines += [f"\tslot={slot:4d} task={number[slot]:4d}\n" for slot in taken]
    return "".join(lines)
