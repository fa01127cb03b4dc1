"""Files that have not got their final names yet: how they are called, and how they go."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from encamp.errors import printable

PART = ".encamp-"
"""How temporary names begin; hidden, so that ordinary patterns do not match them."""

BEACON = "-beacon"
"""How the name of a beacon ends; between the two is the token of its owner (see `beacon`)."""


def discard(part: Path) -> None:
    """Remove a temporary file; what cannot be removed is warned of, and no reason to stop."""
    try:
        part.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as exc:
        warnings.warn(f"cannot remove the temporary file {printable(part)}: {exc}", stacklevel=3)


def discard_leftovers(folders: Iterable[Path], token: str) -> None:
    """Remove temporary files whose token begins with ``token`` from folders and those below."""
    pending = [os.fspath(folder) for folder in folders]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(PART + token):
                    discard(Path(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def discard_noted(part: Path) -> None:
    """Remove a temporary file of a dead owner; for a beacon all that have its owner's token."""
    if part.name.startswith(PART) and part.name.endswith(BEACON):
        token = part.name.removeprefix(PART).removesuffix(BEACON)
        discard_leftovers([part.parent], token)
    elif part.name.startswith(PART):
        discard(part)
