"""What executors, jobs and `encamp.compat` may do with a cluster beyond its public interface.

They get it from `cluster.port_of`. It holds no reference to the `Cluster`, so that the garbage
collector can find out that it is unused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from encamp.cluster.closing import Lifetime
from encamp.cluster.controller import Controller
from encamp.cluster.records import SlotRecord, TaskRecord
from encamp.cluster.spawn_options import PLAIN, Need
from encamp.cluster.task import SpawnedTask
from encamp.units import counted
from encamp.wire.protocol import Received

if TYPE_CHECKING:
    from encamp.service_statistics import ServiceStatistics

Owned = Callable[[object], bool]
"""Whether tasks with this owner (`SpawnOptions.owner`) are meant."""


class ClusterPort:
    """What executors, jobs and `encamp.compat` use of a cluster. For any thread, unless noted."""

    def __init__(self, controller: Controller, lifetime: Lifetime) -> None:
        self._controller, self._lifetime = controller, lifetime
        self.engine, self.pump, self.agents = controller.engine, controller.pump, controller.agents
        self.spawn = controller.spawn_soon  # a method here would cost each spawn a call
        self.check_open = controller.check_open

    # Its properties

    @property
    def forked(self) -> bool:
        """Whether this process was forked from the one that has created the cluster."""
        return self._lifetime.process != os.getpid()

    @property
    def closed(self) -> bool:
        """Whether it accepts nothing new."""
        return self._controller.closed

    @property
    def failed(self) -> bool:
        """Whether its engine has failed."""
        return self._controller.failure is not None

    @property
    def has_hosts_elsewhere(self) -> bool:
        """Whether it may have other hosts than this one."""
        return self._lifetime.agent is None

    @property
    def about(self) -> str:
        """A short description of the cluster."""
        where = "this host"
        if self.has_hosts_elsewhere:
            where = counted(len(self.agents.hosts), "host")
        return f"{counted(self._controller.scheduler.slots, 'slot')} on {where}"

    def room_for(self, need: Need) -> int:
        """How many tasks with this need can run at the same time, 1 at least."""
        scheduler = self._controller.scheduler
        if need is PLAIN:
            return max(1, scheduler.slots)
        hosts = list(scheduler.hosts.values())
        return max(1, sum(s.most(need) for s in hosts if need.on is None or s.name in need.on))

    def services(self) -> list[ServiceStatistics]:
        """The statistics of the services that were published here."""
        services = self._controller.services
        return [] if services is None else self.pump.call(services.statistics)

    # Slots

    @property
    def changes(self) -> int:
        """A number that grows whenever a slot is added or removed."""
        return self._controller.scheduler.changes

    def slots_of(self, host: str) -> list[SlotRecord]:
        """The scheduler's records of the slots of a host; none if it is lost."""
        record = self._controller.scheduler.hosts.get(host)
        return [] if record is None else list(record.slots)

    def slot_of(self, task: SpawnedTask) -> SlotRecord | None:
        """The slot that a task was sent to, while the slot exists."""
        record = self._controller.tasks.get(task.id)
        return None if record is None else record.slot

    # Tasks of an owner

    def pending(self, owned: Owned) -> list[SpawnedTask]:
        """The tasks of some owners that are not done; may block for a moment."""
        # asked where tasks are ended, so that none is just ending
        found = self.pump.call(lambda: self._find(owned))
        return [record.future for record in found]

    def fail_waiting(self, owned: Owned, error: Exception) -> None:
        """Fail the tasks of some owners that were not sent to a slot."""

        def fail() -> None:
            for record in self._find(owned):
                if record.slot is None:
                    self._controller.end(record, False, error)

        self.pump.call_now_or_soon(fail)

    def _find(self, owned: Owned) -> list[TaskRecord]:
        return [record for record in self._controller.known() if owned(record.options.owner)]

    def forget(self, initializer: object) -> None:
        """Drop an initializer that no task needs any more."""
        self.pump.call(lambda: self._controller.forget(initializer))

    # Messages

    @property
    def has_mail(self) -> bool:
        """Whether the queue has a message."""
        return bool(self._controller.messages.queue)

    def take_message(self) -> Received | None:
        """The next message of the queue, without checking the network. Raises `ClusterClosed`."""
        self.check_open()
        return self._controller.messages.take(None)

    def wait_for(self, other: Callable[[], object]) -> bool:
        """Wait until the queue has a message or ``other()`` is true; False if neither can be."""
        queue, controller = self._controller.messages.queue, self._controller
        self.pump.until(lambda: other() or queue or controller.failure is not None)
        return bool(other() or queue)
