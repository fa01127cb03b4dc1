"""Whether another host sees a destination: a file is put there for it to look for.

It is hidden, says whose it is, and goes when its owner closes. One of an owner that has died goes,
with the temporary files of that owner, when another comes to the same folder, or when the local
storage is cleaned in which it is noted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from encamp.errors import BadLocalStorage, DiskFull, UnusableInput
from encamp.storage.owner import OwnedFolder
from encamp.storage.parts import BEACON, PART, discard_leftovers
from encamp.storage.process import facts_from, this_process
from encamp.storage.roots import Portable, SharedPath, local
from encamp.storage.visible import sees


class Beacons:
    """The beacons of one owner, whose temporary files have names with its ``token``."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._lit: dict[Path, bool] = {}
        self._notes: OwnedFolder | None = None

    def light(self, folders: Iterable[Path]) -> None:
        """Put beacons into folders, which are made where they are missing.

        Where that cannot be, hosts send what goes there, and are told why it cannot.
        """
        for folder in folders:
            if folder not in self._lit:
                with suppress(OSError):
                    self._lit[folder] = not folder.is_dir()
                    folder.mkdir(parents=True, exist_ok=True)
                    _remove_dead(folder)
                    beacon = folder / _name(self._token)
                    self._note(beacon)
                    beacon.write_text(json.dumps(this_process().as_dict()))

    def _note(self, beacon: Path) -> None:
        with suppress(BadLocalStorage, DiskFull):
            if self._notes is None:
                self._notes = OwnedFolder("beacons")
            self._notes.note_part(beacon)

    def close(self) -> None:
        """Remove them, and folders that they alone are in; may be called twice."""
        for folder, made in self._lit.items():
            with suppress(OSError):
                (folder / _name(self._token)).unlink(missing_ok=True)
                if made:
                    folder.rmdir()
        if self._notes is not None:
            self._notes.strike()


def reaches(folder: Portable, token: str) -> bool:
    """Whether this host can write to a folder in which the owner of ``token`` has a beacon."""
    if isinstance(folder, SharedPath):
        beacon: Portable = SharedPath(folder.root, f"{folder.rest}/{_name(token)}")
    else:
        beacon = f"{folder}/{_name(token)}"
    try:
        return sees(beacon) and os.access(local(folder), os.W_OK | os.X_OK)
    except UnusableInput:
        return False


def _name(token: str) -> str:
    return f"{PART}{token}{BEACON}"


def _remove_dead(folder: Path) -> None:
    """Remove what dead owners have left in a folder and those below."""
    for file in folder.glob(f"{PART}*{BEACON}"):
        with suppress(OSError, ValueError):
            owner = facts_from(json.loads(file.read_text()))
            if owner is not None and owner.known_dead:
                discard_leftovers([folder], file.name.removeprefix(PART).removesuffix(BEACON))
