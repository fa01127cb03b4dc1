"""The events of a cluster, and the facts about its hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskResult:
    """The event that a task has ended, with its result. `TaskExit` follows it.

    task
        The task's id.
    ok
        Whether the task's function returned.
    value
        What the function returned, or the task's error if ``ok`` is False.
    """

    task: int
    ok: bool
    value: Any


@dataclass(frozen=True)
class TaskExit:
    """The event that a task has ended. It arrives after the task's `TaskResult`.

    task
        The task's id.
    """

    task: int


@dataclass(frozen=True)
class Host:
    """A host of a cluster.

    name, slots, cores
        The host's name, and how many slots and cores it has.
    memory
        Its memory in bytes.
    gpus
        Its GPUs, with the names that the vendor's tools give them.
    python
        The version of Python in its slots.
    frames_by
        The relay that carries calls, results and files between the host and the program; empty if
        they have a direct connection.
    """

    name: str
    slots: int
    cores: int
    memory: int
    gpus: tuple[str, ...] = ()
    python: str = ""
    frames_by: str = ""


@dataclass(frozen=True)
class HostAdded:
    """The event that a host has joined the cluster."""

    host: Host


@dataclass(frozen=True)
class HostDeleted:
    """The event that a host has left the cluster. The tasks that ran there are lost."""

    host: Host
