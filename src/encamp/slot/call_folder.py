"""One spawned call in a private folder: inputs in, the call, outputs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
    files.
    """

    value: Any
    staged: list[Staged]
    failure: Parts = field(default_factory=list)


class HasFolder(Protocol):
    folder: Path | None


def in_folder(
    plan: FolderPlan,
    task: HasFolder,
    files: Files,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> FolderResult:
    """Call the function in its folder, which is its current folder and the task's ``folder``."""
    with FolderLife(plan, files) as life:
        life.place()
        task.folder = life.folder
        try:
            value = _called_in(life.folder, function, args, kwargs)
            return FolderResult(value, life.stage())
        except (Stopped, NotImportable):
            raise
        except BaseException as exc:
            if not plan.on_failure:
                raise
            return FolderResult(None, life.rescue(), dump_failure(exc))
        finally:
            task.folder = None


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
