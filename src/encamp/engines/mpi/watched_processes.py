"""Processes of this host that a rank watches, since not every MPI reports their deaths."""

from __future__ import annotations

import select
from collections.abc import Mapping
from contextlib import suppress

from encamp.engines.kit.wait_for_process import Sentinel


class Processes:
    """Processes of this host, with their ranks."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, tuple[Sentinel, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._watched)

    def add(self, processes: Mapping[int, int]) -> None:
        """Watch processes, by rank; those that have ended already are left out."""
        for rank, pid in processes.items():
            with suppress(OSError):
                sentinel = Sentinel(pid)
                self._watched[sentinel.fileno()] = sentinel, rank
                self._poll.register(sentinel, select.POLLIN)

    def ended(self) -> list[int]:
        """The ranks whose processes have ended since the last call."""
        ranks = []
        for fd, _ in self._poll.poll(0):
            self._poll.unregister(fd)
            sentinel, rank = self._watched.pop(fd)
            sentinel.close()
            ranks.append(rank)
        return ranks

    def kill(self) -> None:
        """Kill the processes that have not ended."""
        for sentinel, _ in self._watched.values():
            sentinel.kill()
