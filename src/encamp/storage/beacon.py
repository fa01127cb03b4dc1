"""Whether another host sees a destination: a file is put there for it to look for.

It is hidden, says whose it is, and goes when its owner closes, or when another finds that it has
died.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from encamp.storage.landing import PART
from encamp.storage.process import facts_from, this_process
from encamp.storage.roots import Portable, portable

_NAME = f"{PART}beacon-"


class Beacons:
    """The beacons of one owner, who has a ``token`` that nobody else has."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._lit: dict[Path, Portable | None] = {}

    def at(self, folder: Path | None) -> Portable | None:
        """The beacon in a folder, put there if it is not yet; None where that cannot be."""
        if folder is None:
            return None
        if folder not in self._lit:
            self._lit[folder] = self._put(folder)
        return self._lit[folder]

    def _put(self, folder: Path) -> Portable | None:
        file = folder / f"{_NAME}{self._token}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_dead(folder)
            file.write_text(json.dumps(this_process().as_dict()))
        except OSError:
            return None  # what goes there fails with a better message
        return portable(file)

    def close(self) -> None:
        """Remove them; may be called twice."""
        for folder in self._lit:
            with suppress(OSError):
                (folder / f"{_NAME}{self._token}").unlink(missing_ok=True)


def _remove_dead(folder: Path) -> None:
    for file in folder.glob(f"{_NAME}*"):
        with suppress(OSError, ValueError):
            owner = facts_from(json.loads(file.read_text()))
            if owner is not None and owner.known_dead:
                file.unlink(missing_ok=True)
