"""Saved states of servers, on the controller's disk until they are needed or the cluster closes."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from encamp.cluster.disk_thread import DiskThread
from encamp.storage.owned_folder import OwnedFolder
from encamp.wire.frames import Parts

_PARTIAL = ".part"


@dataclass
class SavedState:
    """A saved state. ``serial`` is the number of the server's calls that it includes."""

    path: Path
    serial: int


class _Writing:
    """A state on its way to the disk; the first thread that needs it there writes it."""

    def __init__(self, path: Path, parts: Parts) -> None:
        self.path, self._parts = path, parts
        self._lock = threading.Lock()
        self._tried = self.whole = False

    def write(self) -> None:
        """Write it, once; a disk that refuses it leaves ``whole`` false."""
        with self._lock:
            if self._tried:
                return
            self._tried = True
            partial = self.path.with_name(self.path.name + _PARTIAL)
            with suppress(OSError):
                with partial.open("wb") as file:
                    pickle.dump([bytes(part) for part in self._parts], file)
                partial.replace(self.path)
                self.whole = True


class SavedStates:
    """The last state of each server, written by another thread, whole or not at all."""

    def __init__(self, disk_thread: DiskThread) -> None:
        self._disk_thread = disk_thread
        self._folder: OwnedFolder | None = None
        self._numbers = itertools.count()
        self._kept: dict[int, SavedState] = {}
        self._under_way: dict[int, dict[_Writing, Callable[[], None]]] = {}

    def keep(self, server: int, serial: int, parts: Parts, kept: Callable[[int], None]) -> None:
        """Replace a server's state by a new one.

        When it is written, ``kept`` is called with the number of calls that it includes beyond the
        previous state. If the disk is full, the previous state stays.
        """
        if self._folder is None:
            self._folder = OwnedFolder("states")
        state = _Writing(self._folder.path / f"{server}.{next(self._numbers)}", parts)
        self._under_way.setdefault(server, {})[state] = lambda: self._note(
            server, serial, state, kept
        )
        self._disk_thread.run(state.write, lambda *_: self._finish(server, state))

    def settle(self, server: int) -> None:
        """Write all states that arrived before a server ended; blocks until they are written."""
        for state in list(self._under_way.get(server, ())):
            state.write()
            self._finish(server, state)

    def _finish(self, server: int, state: _Writing) -> None:
        note = self._under_way.get(server, {}).pop(state, None)
        if note is not None and state.whole:
            note()

    def _note(self, server: int, serial: int, state: _Writing, kept: Callable[[int], None]) -> None:
        before = self._kept.get(server)
        self._kept[server] = SavedState(state.path, serial)
        kept(serial - (0 if before is None else before.serial))
        if before is not None:
            before.path.unlink(missing_ok=True)

    def since(self, server: int, calls: int) -> int:
        """How many of a server's ``calls`` its last state does not include."""
        kept = self._kept.get(server)
        return max(0, calls - (0 if kept is None else kept.serial))

    def take(self, server: int) -> SavedState | None:
        """The last state of a dead server, for its successor."""
        return self._kept.pop(server, None)

    def adopt(self, server: int, kept: SavedState) -> bytes | None:
        """The initial state of a new server; None if it cannot be read any more."""
        try:
            state = kept.path.read_bytes()
        except OSError:
            return None
        self._kept[server] = SavedState(kept.path, 0)
        return state

    def close(self) -> None:
        """Remove all."""
        if self._folder is not None:
            self._folder.remove()
            self._folder = None
