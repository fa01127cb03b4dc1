"""One spawned call in a private folder: inputs in, the call, outputs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from encamp.errors import EncampError
from encamp.slot.run_function import called
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.send_inputs import Channel
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.send_outputs import OutputChannel
from encamp.storage.outputs.stage import Staged, stage
from encamp.storage.persistent import give_back, persistent_sandbox
from encamp.storage.sandbox import inside
from encamp.storage.sandbox_folder import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Staging:
    """The inputs and outputs of a call's folder.

    Outputs are `bound`. ``beacon`` names the beacon files at their destinations, which show a
    host whether it shares these with the spawner; empty if all do. ``persistent`` is the name of
    the folder that is kept for the slot's next call; empty if it is removed.
    """

    name: str
    token: str
    items: tuple[Item, ...]
    outputs: tuple[Output, ...]
    on_failure: tuple[Output, ...]
    beacon: str = ""
    persistent: str = ""
    chdir: bool = True


@dataclass(frozen=True)
class FolderResult:
    """A call's value, and its outputs under temporary names, which the controller publishes.

    With ``error`` the call has failed, and the outputs are those to be kept after a failure.
    """

    value: Any
    staged: list[Staged]
    error: BaseException | None = None


class Files(Channel, OutputChannel, Protocol):
    """The spawner's disk."""


class HasFolder(Protocol):
    folder: Path | None


def in_folder(
    staging: Staging,
    task: HasFolder,
    channel: Files,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> FolderResult:
    """Call the function in its folder, which is its current folder and the task's ``folder``."""
    sandbox = _sandbox(staging, channel)
    task.folder = sandbox.folder
    before = _current_folder()
    try:
        with inside(sandbox.folder):
            if staging.chdir:
                os.chdir(sandbox.folder)
            try:
                value = called(function, args, kwargs)
            finally:
                if staging.chdir:
                    _go_back(before)
        sandbox.check_inputs(staging.name)
        return FolderResult(value, _staged(staging, sandbox, staging.outputs, channel))
    except Exception as exc:
        if not staging.on_failure:
            raise
        with suppress(EncampError, OSError):  # the call's own error is the one to report
            return FolderResult(None, _staged(staging, sandbox, staging.on_failure, channel), exc)
        raise
    finally:
        task.folder = None
        if staging.persistent:
            give_back(staging.persistent, sandbox)
        else:
            sandbox.remove()


def _current_folder() -> str:
    with suppress(OSError):  # it may have been removed
        return os.getcwd()  # noqa: PTH109 - as it is
    return "/"


def _go_back(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")


def _sandbox(staging: Staging, channel: Channel) -> Sandbox:
    if staging.persistent:
        items = list(staging.items)
        return persistent_sandbox(staging.persistent, items, renew=False, channel=channel)
    sandbox = Sandbox(staging.name, channel)
    try:
        sandbox.place(staging.items)
    except BaseException:
        sandbox.remove()
        raise
    return sandbox


def _staged(
    staging: Staging, sandbox: Sandbox, outputs: tuple[Output, ...], channel: OutputChannel
) -> list[Staged]:
    if not outputs:
        return []
    return stage(
        sandbox.folder,
        outputs,
        token=staging.token,
        task=staging.name,
        inputs=sandbox.inputs,
        unchanged=sandbox.unchanged,
        is_from=sandbox.is_from,
        announce=sandbox.note_parts,
        channel=channel if staging.beacon else None,
        beacon=staging.beacon,
    )
