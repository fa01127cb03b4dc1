"""Removing folders: never through a symlink, never outside the local storage."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from encamp.errors import UnsafeTarget
from encamp.storage.roots import local_storage_path


def strike(folder: Path) -> None:
    """Remove ``folder`` and all that is in it; nothing happens if it is not there.

    Folders whose owner may not write to them are opened first. Raises `UnsafeTarget` for a
    folder that is not in the local storage, OSError for what cannot be removed.
    """
    root = local_storage_path()
    if folder == root or not folder.is_relative_to(root) or ".." in folder.parts:
        raise UnsafeTarget(str(folder), f"is not in the local storage {root}")
    if folder.is_symlink() or folder.is_file():
        folder.unlink(missing_ok=True)
    elif folder.exists():
        shutil.rmtree(folder, onerror=_open_and_retry)


def _open_and_retry(
    _function: Callable[..., Any], path: str, error: tuple[type, BaseException, Any]
) -> None:
    if isinstance(error[1], FileNotFoundError):
        return
    if not isinstance(error[1], PermissionError):
        raise error[1]
    for name in (str(Path(path).parent), path):
        mode = os.lstat(name).st_mode
        if stat.S_ISDIR(mode):
            Path(name).chmod(stat.S_IMODE(mode) | 0o700)
    if Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)
