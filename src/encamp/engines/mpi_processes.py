"""Processes of this host that a rank watches, since not every MPI tells of their deaths."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress


class Processes:
    """Processes with the ranks that they stand for."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._rank_of: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._rank_of)

    def add(self, processes: Mapping[int, int]) -> None:
        """Watch processes, from rank to process id; those that are not there are left out."""
        for rank, pid in processes.items():
            with suppress(OSError):
                sentinel = os.pidfd_open(pid)
                self._rank_of[sentinel] = rank
                self._poll.register(sentinel, select.POLLIN)

    def ended(self) -> list[int]:
        """The ranks of those that have ended since the last call."""
        ranks = []
        for sentinel, _ in self._poll.poll(0):
            self._poll.unregister(sentinel)
            os.close(sentinel)
            ranks.append(self._rank_of.pop(sentinel))
        return ranks

    def kill(self) -> None:
        """End those that are still there, by force."""
        for sentinel in self._rank_of:
            with suppress(OSError):
                signal.pidfd_send_signal(sentinel, signal.SIGKILL)
