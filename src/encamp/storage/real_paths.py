"""Real paths of folders."""

from __future__ import annotations

import os
from pathlib import Path

from encamp.errors import BadJob


def real_folder(path: str) -> Path:
    """The real path of a folder; cached until the name stands for a different folder."""
    try:
        now = os.stat(path)  # noqa: PTH116 - often called
        if (known := _real.get(path)) and os.path.samestat(now, os.lstat(known)):
            return known
    except OSError:
        return Path(os.path.realpath(path))
    _real[path] = real = Path(os.path.realpath(path))
    return real


_real: dict[str, Path] = {}


def why_not_absolute(path: str) -> str:
    """The reason for refusing a path: a relative one would depend on each task's current folder."""
    return "no such user" if path.startswith("~") else "it is not an absolute path"


def current_folder() -> Path:
    """This process's current folder; raises `BadJob` if it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as exc:
        why = "it has been removed; change to a different one (cd) and try again"
        raise BadJob("the current folder", why) from exc


def is_below(real: str, root: str) -> bool:
    """Whether a real path is a folder or in it."""
    return real == root or real.startswith(root if root.endswith("/") else f"{root}/")
