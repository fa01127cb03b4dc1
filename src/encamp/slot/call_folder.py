"""One spawned call in a private folder: inputs in, the call, outputs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from encamp.errors import Stopped
from encamp.slot.run_function import called
from encamp.storage.folder_life import Files, FolderLife, FolderPlan
from encamp.storage.outputs.stage import Staged
from encamp.storage.sandbox import inside
from encamp.wire.frames import Parts
from encamp.wire.pickling import NotImportable, dump_failure


@dataclass(frozen=True)
class FolderResult:
    """A call's value, and its outputs under temporary names, which the controller publishes.

    With ``failure``, made by `dump_failure`, the call has failed, and the outputs are the rescued
    files. If the folder was ``left`` to the agent, this rescues them when the slot has ended.
    """

    value: Any
    staged: list[Staged]
    failure: Parts = field(default_factory=list)
    left: bool = False


class LeftFolder(msgspec.Struct, array_like=True, frozen=True):
    """A slot's note for its agent: the folder of the running call, if files may be rescued."""

    task: int
    path: bytes


class HasFolder(Protocol):
    folder: Path | None

    @property
    def id(self) -> int:
        """Its number."""


@dataclass(frozen=True)
class Rescuer:
    """The process that rescues the files of a call whose own process is killed.

    ``facts`` are its `ProcessFacts`; ``note`` leaves it a note, as `Ledger.note` does.
    """

    facts: bytes
    note: Callable[[bytes], bool]

    def watch(self, life: FolderLife, task: int) -> bool:
        """Have it do so for this call; returns whether it will."""
        path = life.sandbox.path
        if not self.note(msgspec.msgpack.encode(LeftFolder(task, os.fsencode(path)))):
            return False
        with suppress(OSError):
            life.note_rescue(self.facts)
            return True
        self.unwatch(life)
        return False

    def unwatch(self, life: FolderLife) -> None:
        """The call has ended, or its folder stays with this process."""
        life.forget_rescue()
        self.note(b"")


def in_folder(
    plan: FolderPlan,
    task: HasFolder,
    files: Files,
    rescuer: Rescuer | None,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> FolderResult:
    """Call the function in its folder, which is its current folder and the task's ``folder``."""
    with FolderLife(plan, files) as life:
        life.place()
        result = _watched(plan, life, task, rescuer, function, args, kwargs)
        with suppress(Stopped):  # which is too late: the call has ended, and its files are staged
            life.end()
    return result


def _watched(
    plan: FolderPlan,
    life: FolderLife,
    task: HasFolder,
    rescuer: Rescuer | None,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> FolderResult:
    pid = os.getpid()
    task.folder = life.folder
    watched = rescuer is not None and rescuer.watch(life, task.id)
    try:
        return _outcome(plan, life, function, args, kwargs)
    except Stopped as exc:
        if not watched:
            raise
        watched = False
        life.leave()
        return FolderResult(None, [], dump_failure(exc), left=True)
    finally:
        task.folder = None
        if watched and rescuer is not None and os.getpid() == pid:
            rescuer.unwatch(life)


def _outcome(
    plan: FolderPlan,
    life: FolderLife,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> FolderResult:
    try:
        value = _called_in(life.folder, function, args, kwargs)
        return FolderResult(value, life.stage())
    except (Stopped, NotImportable):
        raise
    except BaseException as exc:
        if not plan.on_failure:
            raise
        return FolderResult(None, life.rescue(), dump_failure(exc))


def _called_in(
    folder: Path, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    before = _current_folder()
    with inside(folder):
        os.chdir(folder)
        try:
            return called(function, args, kwargs)
        finally:
            _go_back(before)


def _current_folder() -> str:
    with suppress(OSError):  # it may have been removed
        return os.getcwd()  # noqa: PTH109 - as it is
    return "/"


def _go_back(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")
