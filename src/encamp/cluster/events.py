"""What a cluster tells on the queue of messages, and what it says of its hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskResult:
    """A task has ended: ``ok`` if it returned ``value``; otherwise that is the error."""

    task: int
    ok: bool
    value: Any


@dataclass(frozen=True)
class TaskExit:
    """A task is gone; comes after its result."""

    task: int


@dataclass(frozen=True)
class Host:
    """A host of a cluster: facts. ``memory`` in bytes; ``gpus`` as the vendor's tools name them.

    ``frames_by`` is what carries calls, results and files between it and the program; it is empty
    where they go directly, as they should.
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
    """A host is gone; its tasks are lost."""

    host: Host
