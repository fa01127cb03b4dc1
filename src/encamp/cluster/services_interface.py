"""The interface for services: an object that uses a cluster and follows its tasks and hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from encamp.cluster.records import TaskRecord
from encamp.wire.frames import Parts

if TYPE_CHECKING:
    from encamp.service_statistics import ServiceStatistics


class ServicesInterface(Protocol):
    """A layer above with its own long-lived tasks. Its methods are called by the driving thread."""

    @property
    def lasting(self) -> int:
        """How many of the cluster's tasks are its own, and end only on its order."""

    @property
    def resting(self) -> int:
        """The number of its tasks that are known to be idle."""

    @property
    def idle(self) -> bool:
        """Whether no request or answer is pending that its servers can still fulfil."""

    @property
    def crowding(self) -> bool:
        """Whether its tasks occupy all slots, so that no other task can start."""

    @property
    def holders(self) -> str:
        """The names of its services that occupy slots."""

    def arrived(self, sender: int, parts: Parts) -> None:
        """Called with a message that has arrived on its port (`wire.protocol.SERVICES`)."""

    def ended(self, task: TaskRecord, good: bool, value: Any) -> None:
        """Called when a task has ended, its own or another."""

    def crowded(self) -> None:
        """Called when a task was spawned while its own tasks occupy all slots."""

    def hosts_changed(self) -> None:
        """Called when the number of slots has changed."""

    def wind_up(self) -> None:
        """Called when the cluster is about to close; ends its tasks cleanly."""

    def statistics(self) -> list[ServiceStatistics]:
        """The statistics of its services."""

    def close(self) -> None:
        """Called when the cluster is closed."""
