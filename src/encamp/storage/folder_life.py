"""The life of a task's folder, which sandboxes, spawned tasks and attempts of jobs share.

create, place the inputs ──► the task runs ──► stage its outputs ─────────► remove, keep or reuse
                                           └─► (it failed) rescue its files ─┘
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import msgspec

from encamp.errors import EncampError
from encamp.storage.dead_owners import keep_dead, reclaim_folder
from encamp.storage.disk.overlay import recover
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.send_inputs import Channel
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.send_outputs import OutputChannel
from encamp.storage.outputs.stage import Staged, stage
from encamp.storage.owned_folder import RESCUE, TASK, add_parts, forget_rescue
from encamp.storage.persistent import give_back, persistent_sandbox
from encamp.storage.placing.unchanged_inputs import InputSources
from encamp.storage.sandbox_folder import Sandbox
from encamp.storage.spare_folder import owned_folder


class Files(Channel, OutputChannel, Protocol):
    """The spawner's disk."""


class FolderPlan(msgspec.Struct, frozen=True):
    """What goes into a task's folder, and what comes out of it."""

    task: str
    """The task's name in messages."""
    token: str
    """Names the task's temporary files, unlike any other's."""
    items: tuple[Item, ...]
    outputs: tuple[Output, ...]
    on_failure: tuple[Output, ...]
    """Files to rescue, if they exist; ``required`` means nothing here."""
    destination: Path | None = None
    """The folder for outputs that are not `bound`."""
    beacon: str = ""
    """The beacons' description, for hosts that may not see the destinations; else empty."""
    flush: bool = True
    """Whether outputs are flushed here, see `stage`; rescued files always are."""
    persistent: str | None = None
    """The name of a folder that is kept for this process's next task; None if there is none."""
    in_place: bool = True
    """Whether outputs may replace the sources of inputs that have changed; a job's may not."""


class FolderLife:
    """One task's folder, from its creation to its end: a context manager, for one thread.

    ``name`` is the folder's name, by default the task's. ``renew`` creates a persistent folder
    again. A ``spare`` folder is used again by this process's next task; the outputs' temporary
    files are then left to the caller if this process dies. ``keeps`` may be set until the end: the
    folder is then moved to the kept ones, as ``kept``. Raises the errors of `Sandbox` and, if the
    folder is persistent, of `place`.
    """

    def __init__(
        self,
        plan: FolderPlan,
        channel: Files | None = None,
        *,
        name: str = "",
        renew: bool = False,
        spare: bool = False,
        keeps: bool = False,
    ) -> None:
        name = name or plan.task
        self._plan, self._channel, self._spare = plan, channel, spare
        self.keeps = keeps
        self.kept: Path | None = None
        self._over = False
        self._is_placed = plan.persistent is not None
        if plan.persistent is not None:
            items = list(plan.items)
            sandbox = persistent_sandbox(plan.persistent, items, renew=renew, channel=channel)
        else:
            sandbox = Sandbox(name, channel, owned_folder(name) if spare else None)
        self.sandbox = sandbox
        self.folder = sandbox.folder
        """The task's own folder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def place(self) -> None:
        """Put the inputs into the folder, unless a persistent one has them already; blocks.

        Raises the errors of `Placer.place`.
        """
        if not self._is_placed:
            self.sandbox.place(self._plan.items)
            self._is_placed = True

    def stage(self) -> list[Staged]:
        """Check the inputs, and stage the outputs of a task that has succeeded; blocks.

        Raises the errors of `Sandbox.check_inputs` and `stage`.
        """
        plan, sandbox = self._plan, self.sandbox
        sandbox.check_inputs(plan.task)
        if not plan.outputs:
            return []
        return stage(
            self.folder,
            plan.outputs,
            plan.destination,
            token=plan.token,
            task=plan.task,
            inputs=sandbox.inputs,
            unchanged=sandbox.unchanged,
            is_from=sandbox.is_from if plan.in_place else None,
            announce=self._announce,
            channel=_channel(plan, self._channel),
            beacon=plan.beacon,
            flush=plan.flush,
        )

    def rescue(self) -> list[Staged]:
        """Stage the files of ``on_failure`` of a task that has failed; blocks, and never raises.

        Files that cannot be published are left out, and so are inputs that would replace their own
        sources. There are none if the task has not begun, because its inputs could not be placed.
        """
        if not self._is_placed:
            return []
        return _rescued(
            self.folder, self._plan, self._channel, self.sandbox.is_from, self._announce
        )

    @property
    def _announce(self) -> Callable[[list[Path]], None] | None:
        return None if self._spare else self.sandbox.note_parts

    def note_rescue(self, supervisor: bytes) -> None:
        """Have a process rescue the files of ``on_failure`` if this one dies, see `noted_plan`.

        ``supervisor`` are its `ProcessFacts`. While it lives, nobody else removes the folder of a
        dead process. Raises OSError.
        """
        self.sandbox.note_rescue(supervisor + b"\n" + pickle.dumps(self._plan))

    def forget_rescue(self) -> None:
        """Have no process do so any more."""
        self.sandbox.forget_rescue()

    def leave(self) -> None:
        """Leave the folder to the supervisor of this process, see `rescue_dead`."""
        self._over = True

    def end(self) -> None:
        """Remove the folder, keep it, or set it aside for the next task. Idempotent."""
        if self._over:
            return
        self._over = True
        if self._plan.persistent is not None:
            give_back(self._plan.persistent, self.sandbox)
        elif self.keeps:
            self.kept = self.sandbox.keep()
        elif self._spare:
            self.sandbox.put_aside()
        else:
            self.sandbox.remove()


def noted_plan(path: Path) -> FolderPlan | None:
    """The plan that `FolderLife.note_rescue` has noted in the folder of a dead process, if any."""
    try:
        _, plan = (path / RESCUE).read_bytes().split(b"\n", 1)
        found: FolderPlan = pickle.loads(plan)  # noqa: S301 - in this user's private folder
    except Exception:  # noqa: BLE001 - the disk was full, perhaps
        return None
    return found


def rescue_dead(
    path: Path, plan: FolderPlan, channel: Files | None, *, notes_parts: bool = False
) -> list[Staged]:
    """`FolderLife.rescue` for the folder of a dead process; ``path`` is `Sandbox.path`.

    With ``notes_parts``, what is not published before `end_dead` is removed then.
    """
    with suppress(OSError):
        recover(path)
    announce = partial(add_parts, path) if notes_parts else None
    return _rescued(path / TASK, plan, channel, InputSources(plan.items).is_from, announce)


def end_dead(path: Path, *, keeps: bool) -> Path | None:
    """`FolderLife.end` for the folder of a dead process; returns where it is kept.

    If another process looks at the folder just now, the next `reclaim` removes it.
    """
    forget_rescue(path)
    if keeps and (kept := keep_dead(path)):
        return kept
    reclaim_folder(path)
    return None


def _rescued(
    folder: Path,
    plan: FolderPlan,
    channel: Files | None,
    is_from: Callable[[str, Path], bool],
    announce: Callable[[list[Path]], None] | None,
) -> list[Staged]:
    if not plan.on_failure:
        return []
    with suppress(EncampError, OSError):  # the task's own error matters more
        return stage(
            folder,
            plan.on_failure,
            plan.destination,
            token=plan.token,
            task=plan.task,
            is_from=is_from,
            announce=announce,
            channel=_channel(plan, channel),
            beacon=plan.beacon,
            lenient=True,
        )
    return []


def _channel(plan: FolderPlan, channel: Files | None) -> Files | None:
    """The way to destinations that this host may not see; None if it sees all."""
    return channel if plan.beacon else None
