"""Rank 0 with the slots of all ranks, if the ranks differ from it in nothing but their cores.

A call then bypasses MPI and the other rank: rank 0 talks to its slots over socketpairs, as on one
machine without MPI. The other ranks only wait for the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from encamp.engines.engine_interface import CONTROLLER, Arrival, Engine
from encamp.engines.kit.in_process_agent import InProcessEndpoint
from encamp.engines.kit.variables_not_inherited import not_inherited
from encamp.engines.mpi.endpoint import IDLE_LONG

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_AGENT = 1
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def cores_of_ranks_here(comm: Intracomm) -> list[list[int]] | None:
    """The cores of each rank except 0; None if a rank differs from rank 0 in anything else.

    All ranks must call this; it returns None in all but rank 0.
    """
    ranks = comm.gather((_standing(), sorted(os.sched_getaffinity(0))))
    if ranks is None or len({standing for standing, _ in ranks}) > 1:
        return None
    return [cores for _, cores in ranks[1:]]


def _standing() -> bytes:
    """A digest of what a process inherits, except its cores, and passes on to slots."""
    import resource  # not loaded in slots, where it would suggest that a task has changed limits

    folder = ""
    with suppress(OSError):
        folder = str(Path.cwd())
    mask = os.umask(0o077)
    os.umask(mask)
    limits = [number for name, number in vars(resource).items() if name.startswith("RLIMIT_")]
    facts = [
        Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"),
        [str(Path(f"/proc/self/ns/{name}").readlink()) for name in _NAMESPACES],
        Path("/proc/self/cgroup").read_text(encoding="utf-8"),
        sorted(item for item in os.environ.items() if not not_inherited(item[0])),
        [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
        [folder, mask, os.nice(0), sys.executable, sys.version],
        [resource.getrlimit(number) for number in sorted(set(limits))],
    ]
    return blake2b(json.dumps(facts).encode(errors="surrogateescape")).digest()


class Ranks(Protocol):
    """Rank 0's endpoint among the ranks."""

    def check_open(self) -> None:
        """Raise `EngineFailed` if it is closed or broken."""

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""

    def close(self) -> None:
        """See `Endpoint.close`."""


class OneHostMPIEngine(InProcessEndpoint, Engine):
    """The controller's endpoint as rank 0, which is also the only agent.

    ``ranks`` is its endpoint among the ranks, which leave together at the end; ``cores`` are those
    of each slot.
    """

    name = "mpi"
    private = True

    def __init__(self, ranks: Ranks, cores: Sequence[Sequence[int]]) -> None:
        super().__init__(CONTROLLER)
        self._ranks = ranks
        self.slots_per_agent = len(cores)
        self.agent_here = InProcessEndpoint(_AGENT, cores)
        self._look_at = 0.0

    def start(self, orders: bytes) -> None:
        """See `Engine.start`."""
        self._ranks.check_open()

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`. Polls MPI only to notice dead ranks; always returns nothing."""
        if (now := time.monotonic()) > self._look_at:
            self._look_at = now + IDLE_LONG[1]
            self._ranks.receive()
            self._ranks.patience()  # this also notices ranks that have died
        return ()

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        return max(0.0, self._look_at - time.monotonic())

    def close(self) -> None:
        """See `Endpoint.close`."""
        self._ranks.close()

    def stop(self) -> None:
        """See `Engine.stop`."""
        self.close()
