"""Where Python looks for modules, for processes on hosts that have shared folders elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from encamp.errors import EncampError
from encamp.storage.roots import SharedPath, to_abstract, to_actual

_SEP = "\0"


def import_path() -> list[str]:
    """This process's `sys.path` in words that `extend_import_path` understands on other hosts."""
    return [_everywhere(os.path.abspath(folder or ".")) for folder in sys.path]


def extend_import_path(words: Iterable[str]) -> None:
    """Have modules looked for where another process does, before the places that are known here.

    A folder that is not here by its name is taken from the shared root that holds it there.
    """
    sys.path[:0] = [folder for folder in map(_here, words) if folder not in sys.path]


def _everywhere(folder: str) -> str:
    shared = to_abstract(folder)
    return folder if shared is None else _SEP.join((folder, str(shared.root), shared.rest))


@cache
def _here(words: str) -> str:
    folder, *shared = words.split(_SEP)
    if shared and not Path(folder).exists():
        try:
            return str(to_actual(SharedPath(int(shared[0]), shared[1])))
        except EncampError:
            return folder
    return folder
