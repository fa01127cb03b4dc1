"""A private folder with its inputs in it: everything that lives as long as one sandbox does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from encamp.errors import InputDamaged
from encamp.storage.cache import HostCache
from encamp.storage.mirror import Item
from encamp.storage.owner import OwnedFolder
from encamp.storage.place import Placed, Placer
from encamp.storage.ship import Channel


class Camp:
    """One task's folder, from pitching to striking. Not for sharing between threads.

    ``folder`` is where the task works, ``path`` what encamp has around it. Raises
    `BadLocalStorage` or `DiskFull`.
    """

    def __init__(self, name: str, channel: Channel | None = None) -> None:
        self._owned = OwnedFolder(name)
        self.path, self.folder = self._owned.path, self._owned.task
        try:
            self._cache = HostCache(channel)
        except BaseException:
            self._owned.strike()
            raise
        self._placer = Placer(self._owned, self._cache)
        self._inputs: set[str] = set()

    @property
    def placed(self) -> Placed:
        """What placing the inputs cost."""
        return self._placer.placed

    @property
    def brought(self) -> int:
        """Bytes that were brought to this host's cache."""
        return self._cache.bytes

    @property
    def inputs(self) -> frozenset[str]:
        """Where inputs were put, relative to ``folder``."""
        return frozenset(self._inputs)

    def bring(self, items: Iterable[Item]) -> None:
        """Fetch inputs into the cache that are not there yet; blocks. Raises as `place`."""
        self._placer.bring(items)

    def place(self, items: Iterable[Item]) -> None:
        """Put inputs into the folder; blocks. Raises as `Placer.place`. To be called once."""
        items = list(items)
        self._placer.place(items)
        self._inputs.update(item.target for item in items)

    def check_inputs(self, task: str) -> None:
        """Raise `InputDamaged` if the task wrote to what it shares with others."""
        if (path := self._placer.damaged()) is not None:
            raise InputDamaged(task, path)

    def note_parts(self, parts: Iterable[Path]) -> None:
        """`OwnedFolder.note_parts`."""
        self._owned.note_parts(parts)

    def strike(self) -> None:
        """Remove the folder; may be called twice, and from a process that is about to end."""
        self._owned.strike()
        self._cache.close()

    def keep(self) -> Path:
        """Move the folder out of the owned ones, as plain files; returns its new place."""
        kept = self._owned.keep()
        self._cache.close()
        return kept
