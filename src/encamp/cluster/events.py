"""The events of a cluster, and the facts about its hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskResult:
    """A task has ended: with ``ok`` it returned ``value``, otherwise ``value`` is its error."""

    task: int
    ok: bool
    value: Any


@dataclass(frozen=True)
class TaskExit:
    """A task has ended; follows its result."""

    task: int


@dataclass(frozen=True)
class Host:
    """A host of a cluster. ``memory`` is in bytes; ``gpus`` are named as by the vendor's tools.

    ``frames_by`` names the relay that carries calls, results and files between the host and the
    program; it is empty if they have a direct connection.
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
    """A host has joined the cluster."""

    host: Host


@dataclass(frozen=True)
class HostDeleted:
    """A host has left the cluster; its tasks are lost."""

    host: Host
