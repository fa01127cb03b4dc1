"""The jobs of a dispatch that run or have ended, and how many more may be sent ahead to slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from encamp.cluster.scheduler import calls_ahead
from encamp.cluster.spawn_options import SpawnOptions
from encamp.errors import ClusterClosed

if TYPE_CHECKING:
    from encamp.cluster.port import ClusterPort
    from encamp.cluster.records import SlotRecord
    from encamp.cluster.task import SpawnedTask

_JOB = SpawnOptions(at_once=True)
MOST_AHEAD = 100
"""Maximum number of jobs that `cOS.dispatch` without a collector takes ahead for a slot."""


class JobsSentAhead:
    """The jobs of a spawner that are running, and ended ones that were not asked for yet."""

    def __init__(self, cluster: ClusterPort | None) -> None:
        self._cluster = cluster
        self.running: dict[int, SpawnedTask] = {}
        self.ended: deque[SpawnedTask] = deque()
        self.ahead = 0
        """How many more may wait at each slot, going by how long the last one took."""

    def start(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> SpawnedTask:
        """Run a function in a slot that the cluster chooses."""
        if self._cluster is None:
            raise ClusterClosed("the virtual machine")
        task = self._cluster.spawn(function, args, kwargs, _JOB)
        self.running[task.id] = task
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: Any) -> None:
        """Called in the thread that drives the cluster's pump."""
        self.ahead = calls_ahead(task, MOST_AHEAD)
        self.ended.append(task)
        self.running.pop(task.id, None)  # last: others may see it in both, not in neither

    def wait(self) -> bool:
        """Wait until one has ended or the cluster has a message; False if none can end."""
        if self._cluster is None or not (self.running or self.ended):
            return False
        return self._cluster.wait_for(self.ended.__len__)

    def room(self, free: int, *, ahead: bool) -> int:
        """How many more may start in ``free`` slots; with ``ahead``, short ones also wait there."""
        there = len(self.running) + len(self.ended)
        return free * (1 + self.ahead * ahead) - there

    def in_slots(self, slots: Mapping[int, SlotRecord], free: Iterable[int]) -> dict[int, int]:
        """Slot → number of the job that it runs; waiting jobs are assigned to free slots."""
        if not self.running:
            return {}
        at: dict[SlotRecord | None, int] = {}
        waiting = []
        for task in list(self.running.values()):
            record = None if self._cluster is None else self._cluster.slot_of(task)
            if record is None:
                waiting.append(task.id)
            else:
                at.setdefault(record, task.id)
        number = {record: slot for slot, record in slots.items()}
        found = {number[record]: job for record, job in at.items() if record in number}
        others = (slot for slot in free if slot not in found)
        return found | dict(zip(others, waiting, strict=False))
