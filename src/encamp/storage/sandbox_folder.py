"""One sandbox: a private folder with its lock, its inputs, and its use of the cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from encamp.errors import InputDamaged, InputLost, printable
from encamp.storage.cache.cache import HostCache
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.send_inputs import Channel
from encamp.storage.owned_folder import OwnedFolder
from encamp.storage.placing.damaged_inputs import Placed
from encamp.storage.placing.place import Placer
from encamp.storage.placing.unchanged_inputs import UnchangedInputs
from encamp.storage.spare_folder import put_aside


class Sandbox:
    """A private folder, created with this object and removed by `remove` or `keep`.

    ``folder`` is the task's own folder; ``path`` is the folder around it, which also holds encamp's
    files. ``owned`` is that folder if it exists already. For one thread at a time. Raises
    `BadLocalStorage` or `DiskFull`.
    """

    def __init__(
        self, name: str, channel: Channel | None = None, owned: OwnedFolder | None = None
    ) -> None:
        self._owned = owned or OwnedFolder(name)
        self.path, self.folder = self._owned.path, self._owned.task
        try:
            self._cache = HostCache(channel, self._owned.storage)
        except BaseException:
            self._owned.remove()
            raise
        self._placer = Placer(self._owned, self._cache)
        self._inputs: set[str] = set()
        self._unchanged = UnchangedInputs(self.folder, (), self._cache)
        self._wrong: InputDamaged | InputLost | None = None

    @property
    def placed(self) -> Placed:
        """The costs of placing the inputs."""
        return self._placer.placed

    @property
    def brought(self) -> int:
        """Bytes that were fetched into this host's cache."""
        return self._cache.bytes

    @property
    def inputs(self) -> frozenset[str]:
        """Paths of the inputs, relative to ``folder``."""
        return frozenset(self._inputs)

    def unchanged(self, path: str) -> bool:
        """Whether a path in ``folder`` is an unchanged input, or in one."""
        return self._unchanged(path)

    def is_from(self, path: str, final: Path) -> bool:
        """Whether a path in ``folder`` is an input with the source ``final``, or in one."""
        return self._unchanged.is_from(path, final)

    def bring(self, items: Iterable[Item]) -> None:
        """Fetch missing inputs into the cache; blocks. Raises the errors of `place`."""
        self._placer.bring(items)

    def place(self, items: Iterable[Item]) -> None:
        """Put inputs into the folder; blocks. Call it once. Raises the errors of `Placer.place`."""
        items = list(items)
        self._placer.place(items)
        self._unchanged = UnchangedInputs(self.folder, items, self._cache)
        self._inputs.update(item.target for item in items)

    def check_inputs(self, task: str) -> None:
        """Raise `InputDamaged` if the task has written to an input that others share.

        Raises `InputLost` if a shared input has vanished from this host's disk. A folder with such
        an error raises it again at each later call.
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

    def note_rescue(self, note: bytes) -> None:
        """`OwnedFolder.note_rescue`."""
        self._owned.note_rescue(note)

    def forget_rescue(self) -> None:
        """`OwnedFolder.forget_rescue`."""
        self._owned.forget_rescue()

    def put_aside(self) -> None:
        """Empty the folder, and keep it for this process's next task, see `spare_folder`."""
        put_aside(self._owned)
        self._cache.close()

    def remove(self) -> None:
        """Remove the folder. Idempotent; may also be called by a process that is about to end.

        Warns about files that cannot be removed (root's files, made by a container) and leaves them
        to `encamp clean`, so that the result is not lost.
        """
        try:
            self._owned.remove()
        except OSError as exc:
            warnings.warn(f"cannot remove {printable(self.path)}: {exc}", stacklevel=2)
        self._cache.close()

    def keep(self) -> Path:
        """Move the folder to the kept ones, as plain files; returns its new path."""
        kept = self._owned.keep()
        self._cache.close()
        return kept
