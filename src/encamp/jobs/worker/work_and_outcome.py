"""The work of one attempt, sent to a worker, and the outcome, sent back."""

from __future__ import annotations

import pickle
import types
from typing import Literal

import msgspec

from encamp.attempt_facts import Span, Where
from encamp.errors import CannotTravel, text_of
from encamp.jobs.run_clock import Clock
from encamp.jobs.run_lease import Lease
from encamp.jobs.steps import Call, Command
from encamp.storage.folder_life import FolderPlan
from encamp.storage.inputs.mirror import Item
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.stage import Staged
from encamp.wire.pickling import NotImportable

Keep = Literal["never", "failed", "always"]


class Work(msgspec.Struct, frozen=True):
    """One attempt at one task: everything that a worker needs to know."""

    job: str
    task: str
    attempt: int
    token: str
    """Names this attempt's temporary files, unlike any other's."""
    steps: bytes
    """Pickled tuple of `Call` and `Command`."""
    shared: tuple[Item, ...]
    """Job inputs."""
    inputs: tuple[Item, ...]
    outputs: tuple[Output, ...]
    """`bound`, as those after them."""
    on_failure: tuple[Output, ...]
    logs: Output
    """Where logs go."""
    time_limit: float | None
    log_limit: int
    keep: Keep
    lease: Lease
    sys_path: tuple[str, ...]
    clock: Clock
    values: str | None = None
    """The file that has the task's values."""
    beacon: str = ""
    """The beacons' description, for hosts that might not see the destinations; else empty."""

    @property
    def folder(self) -> FolderPlan:
        """What goes into the attempt's folder and comes out of it."""
        return FolderPlan(
            self.task,
            self.token,
            (*self.shared, *self.inputs),
            self.outputs,
            self.on_failure,
            beacon=self.beacon,
            # On its own host the controller flushes outputs, for many tasks at once.
            flush=not self.lease.controller.near,
            in_place=False,
        )


class Outcome(msgspec.Struct):
    """The outcome of one attempt. ``error`` is None if it succeeded."""

    where: Where | None = None
    pid: int = 0
    """The process id of the slot."""
    phases: list[Span] = msgspec.field(default_factory=list)
    bytes_mirrored: int = 0
    files_mirrored: int = 0
    bytes_shared: int = 0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    staged: list[Staged] = msgspec.field(default_factory=list)
    rescued: list[Staged] = msgspec.field(default_factory=list)
    log: Staged | None = None
    log_tail: str = ""
    kept: str | None = None
    value: bytes | None = None
    """The pickled result of the last Python step; the worker may lack its class."""
    error: BaseException | None = None
    lost: bool = False
    """Whether its host was lost, which does not count as the task's failure."""


def pack(task: str, steps: tuple[Call | Command, ...], by_value: set[types.ModuleType]) -> bytes:
    """Pickle steps: functions by reference, those of ``by_value`` modules and scripts by value.

    Raises `CannotTravel`.
    """
    if Call not in map(type, steps):
        return pickle.dumps(steps, pickle.HIGHEST_PROTOCOL)
    from encamp.wire.by_value import dump_with_modules

    try:
        return dump_with_modules(steps, by_value)
    except (Exception, SystemExit) as exc:  # an argument's own code may raise either
        labels = ", ".join(step.label for step in steps if isinstance(step, Call))
        raise CannotTravel(f"task {task}: {labels}", text_of(exc)) from exc


def unpack(steps: bytes) -> tuple[Call | Command, ...]:
    """The steps; raises `NotImportable`, or the errors of importing their modules."""
    try:
        unpacked: tuple[Call | Command, ...] = pickle.loads(steps)  # noqa: S301 - from our job
    except ModuleNotFoundError as exc:
        raise NotImportable(exc.name or "") from exc
    return unpacked
