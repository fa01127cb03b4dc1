"""Leases: Dask tasks that stand for encamp's work on a Dask cluster.

An adaptive cluster grows while tasks wait, and retires workers without tasks. Therefore there is a
lease on a worker for each of its busy slots, and a lease that may run anywhere for each waiting
call.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Mapping
from typing import Any

from distributed import get_worker

LOOK = 0.1
"""Seconds between checks whether Dask still wants a lease."""
_FEW = 16
"""Leases for waiting calls, beyond as many as there are slots: a cluster grows step by step."""


class Leases:
    """The leases of a run. For one thread at a time."""

    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run
        self._numbers = itertools.count()
        self._held: dict[str | None, list[Any]] = {}
        """By address of the worker; None for those that may run anywhere."""

    def adjust(self, busy: Mapping[Hashable, int], waiting: int) -> None:
        """Adjust the leases: one for each busy slot of a worker, and some for waiting calls."""
        wanted: dict[str | None, int] = {str(address): count for address, count in busy.items()}
        wanted[None] = min(waiting, sum(busy.values()) + _FEW)
        for address in [*self._held]:
            kept = self._held[address]
            drop = kept[wanted.get(address, 0) :]
            del kept[wanted.get(address, 0) :]
            if drop:
                self._client.cancel(drop, force=True)
            if not kept:
                del self._held[address]
        for address, count in wanted.items():
            held = self._held.setdefault(address, []) if count else []
            held += [self._lease(address) for _ in range(count - len(held))]

    def _lease(self, address: str | None) -> Any:
        key = f"{key_of(self._run)}{next(self._numbers)}"
        where = {} if address is None else {"workers": [address], "allow_other_workers": False}
        return self._client.submit(hold, key, key=key, pure=False, retries=0, **where)

    def close(self) -> None:
        """Cancel all leases."""
        self.adjust({}, 0)


def key_of(run: str) -> str:
    """How the keys of a run's leases begin."""
    return f"encamp-lease-{run}-"


def hold(key: str) -> None:
    """A Dask task that lasts as long as Dask wants it; ``key`` is its own key.

    Dask only forgets a task that was cancelled or whose client has ended, so this thread checks.
    """
    worker, never = get_worker(), threading.Event()
    while worker.status.name in ("running", "paused"):
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            return
        never.wait(LOOK)
