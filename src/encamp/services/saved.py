"""States of servers, kept on the controller's disk until they are needed or the cluster closes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from encamp.cluster.errands import Errands
from encamp.storage.owner import OwnedFolder
from encamp.wire import Parts

_PARTIAL = ".part"


@dataclass
class Kept:
    """A state on the disk. ``serial``: how many calls of the server that made it it knows of."""

    path: Path
    serial: int


class States:
    """The last state of each server. Written beside the pump, and whole or not at all."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._folder: OwnedFolder | None = None
        self._kept: dict[int, Kept] = {}

    def keep(self, seat: int, serial: int, parts: Parts, kept: Callable[[int], None]) -> None:
        """Keep a state in the place of the one before.

        Then ``kept`` is told how many more calls it knows of. Where the disk is full the one before
        stays.
        """
        if self._folder is None:
            self._folder = OwnedFolder("states")
        path = self._folder.path / f"{seat} after {serial}"

        def write() -> None:
            partial = path.with_name(path.name + _PARTIAL)
            with partial.open("wb") as file:
                pickle.dump([bytes(part) for part in parts], file)
            partial.replace(path)

        def done(_: object, error: BaseException | None) -> None:
            if error is None:
                before = self._kept.get(seat)
                self._kept[seat] = Kept(path, serial)
                kept(serial - (0 if before is None else before.serial))
                if before is not None:
                    before.path.unlink(missing_ok=True)

        self._errands.run(write, done)

    def since(self, seat: int, calls: int) -> int:
        """How many of a server's calls its last state does not know of."""
        kept = self._kept.get(seat)
        return max(0, calls - (0 if kept is None else kept.serial))

    def take(self, seat: int) -> Kept | None:
        """The last state of a dead server, for its successor."""
        return self._kept.pop(seat, None)

    def adopt(self, seat: int, kept: Kept) -> bytes | None:
        """A state for a server that begins with it; None if it cannot be read any more."""
        try:
            state = kept.path.read_bytes()
        except OSError:
            return None
        self._kept[seat] = Kept(kept.path, 0)
        return state

    def close(self) -> None:
        """Remove all."""
        if self._folder is not None:
            self._folder.strike()
            self._folder = None
