"""From plan to folder: inputs are put where the task expects them."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from msgspec.structs import replace

from encamp.errors import (
    ModeRefused,
    SourceChanged,
    TargetConflict,
    UnsafeTarget,
)
from encamp.storage.cache.cache import HostCache
from encamp.storage.disk import overlay
from encamp.storage.disk.copy_file import copy_error, copy_file
from encamp.storage.disk.holes import allocated
from encamp.storage.disk.network_delay import until_not_older
from encamp.storage.disk.removal import remove_tree
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.tree import TreeDigest, link_tree, walk
from encamp.storage.owned_folder import OwnedFolder, named_refusals
from encamp.storage.placing.damaged_inputs import Placed, check_undamaged
from encamp.storage.placing.modes import ActualMode, mode_of, reflink, why_no_whole_overlay
from encamp.storage.shared_folders import local

_NO_SHARING = {
    errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY
}  # fmt: skip
_TRIES = 10

log = logging.getLogger("encamp.place")


class Placer:
    """Puts inputs into the folder of one task; `bring` may be called before `place`."""

    def __init__(self, owned: OwnedFolder, cache: HostCache) -> None:
        self.folder = owned.task
        self.placed = Placed()
        self._owned = owned
        self._cache = cache
        self._safe = {PurePosixPath()}
        self._mounts = 0
        self._whole = False
        self._sent: dict[Item, bool] = {}

    def bring(self, items: Iterable[Item]) -> None:
        """Fetch inputs into the cache, except those that bypass it; raises as `place` does."""
        with named_refusals(self._owned.storage):
            self._cache.fetch_missing(item for item, mode in self._modes(items) if mode != "direct")

    def place(self, items: Iterable[Item]) -> None:
        """Put every item of a plan into the folder.

        Raises `TargetConflict`, `UnsafeTarget`, `UnusableInput`, `ModeRefused`, `SourceChanged`,
        `DiskFull` or `BadLocalStorage`.
        """
        with named_refusals(self._owned.storage):
            self._place(items)

    def _place(self, items: Iterable[Item]) -> None:
        modes = self._modes(items)
        self._cache.fetch_missing(item for item, mode in modes if mode != "direct")
        need = sum(item.allocated for item, mode in modes if mode in ("copy", "direct"))
        with self._cache.room.if_scarce(need, f"the inputs of {self.folder}"):
            shown = self._mount_view([item for item, mode in modes if mode == "overlay"])
            for item, mode in modes:
                if item not in shown:
                    self._guarded(item, mode)

    def _modes(self, items: Iterable[Item]) -> list[tuple[Item, ActualMode]]:
        items = list(items)
        trees = {PurePosixPath(item.target) for item in items if item.kind == "tree"}
        modes = []
        for item in items:
            mode, why = mode_of(self._by_cache(item), self._owned.storage)
            if mode == "overlay" and _is_in(trees, item):
                mode, why = _into_tree(item)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s by %s: %s", item.name, mode, why)
            modes.append((item, mode))
        return self._agreed(modes, trees)

    def _agreed(
        self, modes: list[tuple[Item, ActualMode]], trees: set[PurePosixPath]
    ) -> list[tuple[Item, ActualMode]]:
        """Keep links and overlays apart: no link may lead from an overlay's disk to the cache's."""
        if all(mode != "overlay" for _, mode in modes):
            return modes
        self._whole = why_no_whole_overlay(self._owned.storage) is None
        if self._whole:  # it shows entries of read-only inputs as well
            return [(i, "overlay" if m == "link" and not _is_in(trees, i) else m) for i, m in modes]
        if any(item.mode == "link" for item, _ in modes):
            return [(i, "copy" if m == "overlay" and i.mode == "auto" else m) for i, m in modes]
        return modes

    def _by_cache(self, item: Item) -> Item:
        """An input that must be sent uses the cache, even if only one task needs it."""
        if item.cached or not self._cache.may_be_sent:
            return item
        if item not in self._sent:
            self._sent[item] = self._cache.is_sent(item)
        return replace(item, cached=self._sent[item])

    def _mount_view(self, items: list[Item]) -> set[Item]:
        """Show inputs in one overlay over the whole folder, and return which.

        Big files, and trees if the kernel allows it, are links in its lower layer. The folder
        must still be empty, since its contents would be hidden.
        """
        whole = self._whole
        items = [item for item in items if whole or item.kind == "file"]
        if not items:
            return set()
        view = self._owned.path / overlay.VIEW
        top = view / overlay.VIEW_TASK if whole else view
        top.mkdir(mode=0o700, parents=True)
        for item in sorted(items, key=lambda item: item.kind == "file"):
            place = top / item.target
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if item.kind == "file":
                self._link_in_view(item, place)
                self.placed.views[place] = item
            else:
                tree = self._cache.get(item)
                overlay.show_tree(place, str(tree.relative_to(self._cache.trees)))
                self.placed.mounted.append(item)
        self._mount(view, self.folder, whole=whole)
        return set(items)

    def _link_in_view(self, item: Item, place: Path) -> None:
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                entry = self._cache.get(item)
                if not _shared(str(entry), str(place), replace(item, mode="auto"), "link"):
                    copy_file(entry, place, (item.size, item.mtime_ns))
                return
        raise SourceChanged(item.name)

    def _guarded(self, item: Item, mode: ActualMode) -> None:
        try:
            self._put(item, mode)
        except FileExistsError:
            source = item.name
            raise TargetConflict(item.target, source, "another input") from None
        except OSError as exc:
            raise copy_error(exc, item.name, self.folder, item.allocated) from exc

    def _put(self, item: Item, mode: ActualMode) -> None:
        if mode == "overlay":
            self._folder(PurePosixPath(item.target))
            self._mount(self._cache.get(item), self.folder / item.target)
            self.placed.mounted.append(item)
        elif mode == "direct":
            self._direct(local(item.source), item)
        elif item.kind == "tree":
            if self._tree(self._cache.get(item), item, mode) != item.content:
                raise SourceChanged(item.name)
        else:
            self._entry_of_file(item, mode)

    def _direct(self, source: Path, item: Item) -> None:
        """Copy from the source itself, which must match the plan."""
        if item.kind == "tree":
            until_not_older(source, item.mtime_ns)
            same = self._tree(source, item, "direct") == item.content
        else:
            status = source.stat()
            if not (same := _is_as_planned(status, item)):
                until_not_older(source, item.mtime_ns)
                same = _is_as_planned(status := source.stat(), item)
            if same:
                self._file(source, status, item, "direct")
        if not same:
            raise SourceChanged(item.name)

    def _entry_of_file(self, item: Item, mode: ActualMode) -> None:
        """Use a file's entry; if it was evicted before its use, it is fetched again."""
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                self._file(*self._cache.get_file(item), item, mode)
                return
        raise SourceChanged(item.name)

    def _tree(self, origin: Path, item: Item, mode: ActualMode) -> str:
        """Returns the identity of the placed state, see `TreeState.content`."""
        if mode == "link" and self._tree_of_links(origin, item):
            return item.content
        self._folder(PurePosixPath(item.target))
        top = f"{self.folder}/{item.target}"
        digest = TreeDigest()
        direct = mode == "direct"
        for entry in walk(origin, item.exclude if direct else (), is_copy=not direct):
            digest.take(entry)
            if entry.kind == "folder":
                self._inner_folder(f"{item.target}/{entry.path}")
            elif entry.kind == "link":
                os.symlink(entry.target, f"{top}/{entry.path}")
            else:
                place = f"{top}/{entry.path}"
                self._one(f"{origin}/{entry.path}", place, entry.status, item, mode)
        return digest.state().content

    def _tree_of_links(self, origin: Path, item: Item) -> bool:
        """Link a whole tree if its target is empty; False if that does not work."""
        path = PurePosixPath(item.target)
        self._folder(path.parent)
        try:
            self.placed.files += link_tree(origin, self.folder / path)
        except OSError as exc:
            if exc.errno not in (*_NO_SHARING, errno.EEXIST):
                raise
            if exc.errno != errno.EEXIST:
                remove_tree(self.folder / path, self.folder)
                _check_not_insisted(item, exc)
            return False
        self._safe.add(path)
        self.placed.linked_trees.append(item)
        self._owned.note_linked(map(self._cache.place_of, self.placed.linked_trees))
        return True

    def _file(self, origin: Path, status: os.stat_result, item: Item, mode: ActualMode) -> None:
        if above := item.target.rpartition("/")[0]:
            self._folder(PurePosixPath(above))
        self._one(str(origin), f"{self.folder}/{item.target}", status, item, mode)

    def _one(
        self, origin: str, place: str, status: os.stat_result, item: Item, mode: ActualMode
    ) -> None:
        if not _shared(origin, place, item, mode):
            copied_file = mode == "direct" and item.kind == "file"
            permissions = item.permissions | 0o200 if copied_file else 0
            copy_file(origin, place, (status.st_size, status.st_mtime_ns), permissions)
            self.placed.bytes += allocated(status)
        elif mode == "link":
            self.placed.linked[place] = (item, status)
        self.placed.files += 1

    def _mount(self, lower: Path, target: Path, *, whole: bool = False) -> None:
        scratch = self._owned.path / f"{overlay.SCRATCH}{self._mounts}"
        self._mounts += 1
        if whole:
            overlay.mount_whole(lower, self._cache.trees, target, scratch)
        else:
            overlay.mount(lower, target, scratch)

    def _folder(self, path: PurePosixPath) -> None:
        """Create a folder and its parents; refuses to follow a symlink."""
        if path in self._safe:
            return
        self._folder(path.parent)
        place = self.folder / path
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            if not stat.S_ISDIR(place.lstat().st_mode):
                if place.is_symlink():
                    raise UnsafeTarget(str(path), "goes through a symlink") from None
                raise
        self._safe.add(path)

    def _inner_folder(self, target: str) -> None:
        """Create a folder of a tree, whose parent exists and is not a symlink."""
        try:
            os.mkdir(f"{self.folder}/{target}", 0o700)  # noqa: PTH102
        except FileExistsError:
            self._folder(PurePosixPath(target))

    def check(self, task: str) -> None:
        """See `check_undamaged`."""
        check_undamaged(self.placed, self._cache, self._owned, task)


def _is_as_planned(status: os.stat_result, item: Item) -> bool:
    return (status.st_size, status.st_mtime_ns) == (item.size, item.mtime_ns)


def _is_in(trees: set[PurePosixPath], item: Item) -> bool:
    return not trees.isdisjoint(PurePosixPath(item.target).parents)


def _into_tree(item: Item) -> tuple[ActualMode, str]:
    """The mode for an input inside another input's tree: a mount would hide it, or be hidden."""
    why = "its target is inside the tree of another input"
    if item.mode == "overlay":
        raise ModeRefused(item.mode, item.name, why)
    return "copy", why


def _shared(origin: str, place: str, item: Item, mode: ActualMode) -> bool:
    """Put a file in its place without copying its bytes; False if the disk does not support it.

    Raises `ModeRefused` if this mode was requested.
    """
    if mode not in ("link", "reflink"):
        return False
    try:
        if mode == "link":
            os.link(origin, place)
        else:
            reflink(Path(origin), Path(place))
    except OSError as exc:
        if exc.errno not in _NO_SHARING:
            raise
        _check_not_insisted(item, exc)
        return False
    return True


def _check_not_insisted(item: Item, exc: OSError) -> None:
    if item.mode in ("link", "reflink"):
        why = f"the disk refuses: {(exc.strerror or str(exc)).lower()}"
        if exc.errno == errno.EXDEV:
            why = "the cache and this part of the task's folder are on different disks"
        raise ModeRefused(item.mode, item.name, why) from exc
