"""The interface for services: an object that uses a cluster and is told about tasks and hosts."""

from __future__ import annotations

from typing import Any, Protocol

from encamp.cluster.records import Record
from encamp.model import ServiceStatistics
from encamp.wire.frames import Parts


class Tenant(Protocol):
    """A layer above that has long-lived tasks of its own. The thread that drives calls it."""

    @property
    def lasting(self) -> int:
        """How many of the cluster's tasks are its own, and end only when they are told to."""

    @property
    def resting(self) -> int:
        """How many of these have nothing to do, as far as that is known here."""

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything of it that can still come."""

    @property
    def crowding(self) -> bool:
        """Whether its own tasks have all slots, so that nothing else can begin."""

    def arrived(self, sender: int, parts: Parts) -> None:
        """A message has come on its port (`protocol.SERVICES`)."""

    def ended(self, task: Record, good: bool, value: Any) -> None:
        """A task has ended, its own or another."""

    def crowded(self) -> None:
        """A task is spawned, and its own tasks have all slots."""

    def hosts_changed(self) -> None:
        """There are more or fewer slots."""

    def wind_up(self) -> None:
        """The cluster is about to close: its own tasks are to end in order."""

    def statistics(self) -> list[ServiceStatistics]:
        """What each of its services has done."""

    def close(self) -> None:
        """The cluster is closed."""
