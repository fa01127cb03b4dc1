"""A private folder with its inputs in it: everything that lives as long as one sandbox does."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from encamp.errors import InputDamaged, InputLost, printable
from encamp.storage.cache.cache import HostCache
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.place import Placed, Placer
from encamp.storage.inputs.ship import Channel
from encamp.storage.inputs.unchanged import Unchanged
from encamp.storage.owner import OwnedFolder


class Camp:
    """One task's folder, from pitching to striking. Not for sharing between threads.

    ``folder`` is where the task works, ``path`` what encamp has around it. Raises
    `BadLocalStorage` or `DiskFull`.
    """

    def __init__(self, name: str, channel: Channel | None = None) -> None:
        self._owned = OwnedFolder(name)
        self.path, self.folder = self._owned.path, self._owned.task
        try:
            self._cache = HostCache(channel, self._owned.storage)
        except BaseException:
            self._owned.remove()
            raise
        self._placer = Placer(self._owned, self._cache)
        self._inputs: set[str] = set()
        self._unchanged = Unchanged(self.folder, (), self._cache)
        self._wrong: InputDamaged | InputLost | None = None

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

    def unchanged(self, path: str) -> bool:
        """Whether a path in ``folder`` is an input, or in one, that is as it was put there."""
        return self._unchanged(path)

    def is_from(self, path: str, final: Path) -> bool:
        """Whether a path in ``folder`` is an input, or in one, whose source is ``final``."""
        return self._unchanged.is_from(path, final)

    def bring(self, items: Iterable[Item]) -> None:
        """Fetch inputs into the cache that are not there yet; blocks. Raises as `place`."""
        self._placer.bring(items)

    def place(self, items: Iterable[Item]) -> None:
        """Put inputs into the folder; blocks. Raises as `Placer.place`. To be called once."""
        items = list(items)
        self._placer.place(items)
        self._unchanged = Unchanged(self.folder, items, self._cache)
        self._inputs.update(item.target for item in items)

    def check_inputs(self, task: str) -> None:
        """Raise `InputDamaged` if the task wrote to what it shares with others, now or before.

        Raises `InputLost` if some of that has vanished from this host's disk.
        """
        if self._wrong is None:
            try:
                self._placer.check(task)
            except (InputDamaged, InputLost) as exc:
                self._wrong = exc
        if self._wrong is not None:
            raise self._wrong.with_facts(task=task)

    def note_parts(self, parts: Iterable[Path]) -> None:
        """`OwnedFolder.note_parts`."""
        self._owned.note_parts(parts)

    def remove(self) -> None:
        """Remove the folder; may be called twice, and from a process that is about to end.

        What cannot be removed (root's files, made by a container) is warned of and left to
        `encamp clean`: it is no reason to lose a result.
        """
        try:
            self._owned.remove()
        except OSError as exc:
            warnings.warn(f"cannot remove {printable(self.path)}: {exc}", stacklevel=2)
        self._cache.close()

    def keep(self) -> Path:
        """Move the folder out of the owned ones, as plain files; returns its new place."""
        kept = self._owned.keep()
        self._cache.close()
        return kept
