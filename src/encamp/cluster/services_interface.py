"""The interfaces between a cluster's controller and its services, which follow tasks and hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from encamp.cluster.disk_thread import DiskThread
from encamp.cluster.kill_and_cancel import KillAndCancel
from encamp.cluster.message_queue import MessageQueue
from encamp.cluster.records import TaskRecord
from encamp.cluster.scheduler import Scheduler
from encamp.cluster.spawn_options import SpawnOptions
from encamp.errors import EngineFailed
from encamp.loop.pump import Pump
from encamp.wire.frames import Parts

if TYPE_CHECKING:
    from encamp.service_statistics import ServiceStatistics


class ServicesInterface(Protocol):
    """A layer above with its own long-lived tasks. Its methods are called by the driving thread."""

    @property
    def servers(self) -> int:
        """How many of the cluster's tasks are its own: they end only when it ends them."""

    @property
    def idle_servers(self) -> int:
        """The number of its tasks that are known to be idle."""

    @property
    def idle(self) -> bool:
        """Whether no request or answer is pending that its servers can still fulfil."""

    @property
    def occupy_all_slots(self) -> bool:
        """Whether its tasks occupy all slots, so that no other task can start."""

    @property
    def names(self) -> str:
        """The names of its services that occupy slots."""

    def arrived(self, sender: int, parts: Parts) -> None:
        """Called with a message that has arrived on its port (`wire.protocol.SERVICES`)."""

    def ended(self, task: TaskRecord, good: bool, value: Any) -> None:
        """Called when a task has ended, its own or another."""

    def warn_if_occupied(self) -> None:
        """Called when a task was spawned while its own tasks occupy all slots."""

    def hosts_changed(self) -> None:
        """Called when the number of slots has changed."""

    def end_servers(self) -> None:
        """Called when the cluster is about to close; ends its tasks cleanly."""

    def statistics(self) -> list[ServiceStatistics]:
        """The statistics of its services."""

    def close(self) -> None:
        """Called when the cluster is closed."""


class ControllerForServices(Protocol):
    """The part of the controller that services need."""

    services: ServicesInterface | None

    @property
    def token(self) -> str:
        """A name that no other cluster has."""

    @property
    def pump(self) -> Pump:
        """The pump, whose driving thread calls services."""

    @property
    def disk_thread(self) -> DiskThread:
        """The thread that works on the disk."""

    @property
    def scheduler(self) -> Scheduler:
        """The hosts and their slots."""

    @property
    def messages(self) -> MessageQueue:
        """The messages of tasks."""

    @property
    def kill_and_cancel(self) -> KillAndCancel:
        """Kills and cancels of tasks."""

    @property
    def tasks(self) -> Mapping[int, TaskRecord]:
        """All tasks that have not ended."""

    @property
    def failure(self) -> EngineFailed | None:
        """The error if the engine has failed."""

    @property
    def closed(self) -> bool:
        """Whether the cluster accepts no new tasks."""

    @property
    def closing(self) -> bool:
        """Whether the agents were asked to end."""

    def spawn(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: SpawnOptions,
    ) -> TaskRecord:
        """Take a call, which starts in a later turn. Raises the errors of `Cluster.spawn`."""
