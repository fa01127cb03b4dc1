"""The host cache: every input that tasks share is copied to this host's disk once.

There is one per user and host, used by any number of processes at once and kept between runs. An
entry, a file or a whole tree, is found by its source's path and state (size, modification time,
permissions, inode, device; for a tree, those of everything in it), so a changed source has a
different entry. Entries appear by rename and are never written to. An entry that has changed (a
task wrote to it, the host lost power) is fetched again. Locks that the kernel drops with their
holder ensure that each entry is fetched once, and that no tree is evicted while it is used.

A source may have two entries: a read-only one, which tasks get as links, and one with the source's
own permissions, which tasks get as copies or overlays.
"""

from __future__ import annotations

import logging
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from secrets import token_hex
from types import TracebackType

from msgspec.structs import replace

from encamp.errors import SourceChanged, UnusableInput
from encamp.storage.cache.index import UNKNOWN, Event, Index, Row, opened
from encamp.storage.cache.integrity import is_intact, status_if_intact
from encamp.storage.cache.locks import KeyLock, exclusive, shared
from encamp.storage.cache.room import Room, cache_limit
from encamp.storage.disk.copy_file import copy_error, copy_file
from encamp.storage.disk.holes import allocated
from encamp.storage.disk.network_delay import until_not_older
from encamp.storage.disk.removal import remove_tree
from encamp.storage.disk.tmp_cleaners import keep_off
from encamp.storage.inputs.mirror import Item, is_here
from encamp.storage.inputs.send_inputs import Channel, receive_file, receive_tree
from encamp.storage.inputs.tree import copy_tree, tree_state
from encamp.storage.local_storage import local_storage, local_storage_path
from encamp.storage.owned_folder import named_refusals
from encamp.storage.shared_folders import local
from encamp.storage.urls import download
from encamp.units import counted

INDEX = "index.sqlite"
_AT_ONCE = 100
"""Entries to read or remove in one transaction."""
log = logging.getLogger("encamp.cache")


class HostCache:
    """Access to this host's cache; a context manager, for one thread at a time.

    Trees that it returns stay until it is closed. ``files`` and ``bytes`` count what it fetched to
    this host. With a ``channel``, files that this host cannot see are sent through it. ``storage``
    is the result of `local_storage`, if known already.
    """

    def __init__(self, channel: Channel | None = None, storage: Path | None = None) -> None:
        self._storage = storage or local_storage()
        self._channel = channel
        self.root = self._storage / "cache"
        keep_off(self._storage)
        with named_refusals(self._storage):
            made = os.path.isdir(f"{self.root}/partial")  # noqa: PTH112 - for each task
            for name in () if made else ("files", "trees", "partial"):
                (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._used: dict[str, Row] = {}
        self._held: dict[str, KeyLock] = {}
        self.files = 0
        self.bytes = 0

    def __enter__(self) -> HostCache:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Record what was used, and release trees. Idempotent."""
        rows = [
            row for row in self._used.values() if os.path.lexists(self._entry(row.key, row.kind))
        ]
        if rows:
            now = time.time()
            with suppress(OSError), self._index() as index:
                for row in rows:
                    index.add(replace(row, used=now))
        self._used.clear()
        for lock in self._held.values():
            lock.close()
        self._held.clear()

    @contextmanager
    def _index(self) -> Iterator[Index]:
        """The index for one transaction; a new one first gets the entries that are on the disk."""
        with opened(self.root / INDEX) as index:
            if index.fresh:
                self._adopt(index)
            yield index

    def _entry(self, key: str, kind: str) -> Path:
        return self.root / f"{kind}s" / key[:2] / key

    @property
    def _locks(self) -> Path:
        return self.root / "locks"

    @property
    def room(self) -> Room:
        """The room on the disk for further entries and for tasks' inputs."""
        return Room(self.root, self._index, self._held, self.drop)

    @property
    def may_be_sent(self) -> bool:
        """Whether there is a channel."""
        return self._channel is not None

    def is_sent(self, item: Item) -> bool:
        """Whether an input is sent through the channel, because this host cannot see it."""
        return self._channel is not None and item.url is None and not is_here(item)

    def has(self, item: Item) -> bool:
        """Whether the entry exists."""
        return self._entry(_key(item), item.kind).exists()

    def fetch_missing(self, items: Iterable[Item]) -> None:
        """Fetch missing entries; errors as in `get`."""
        missing = [item for item in items if not self.has(item)]
        if not missing:
            return
        try:
            try:
                self._note_fetches(missing)
            except OSError as exc:
                need = sum(item.allocated for item in missing)
                raise copy_error(exc, missing[0].name, self.root, need) from exc
            self._fetch_all(missing)
        except BaseException:
            self._forget_missing(missing)
            raise
        with self._index() as index:
            for item in missing:  # others may have evicted them before they were here
                index.add(_row(item))

    def _fetch_all(self, missing: list[Item]) -> None:
        """Fetch recorded entries; space is reserved once for all small ones."""
        small: list[Item] = []
        large: list[Item] = []
        for item in missing:
            (large if self.room.is_scarce(item.allocated) else small).append(item)
        with self.room.if_scarce(sum(item.allocated for item in small), "inputs"):
            for item in small:
                self._get(item, has_room=True)
        for item in large:
            self._get(item)

    def _forget_missing(self, items: list[Item]) -> None:
        """Remove the records of entries that could not be fetched: they count for the limit."""
        keys = [_key(item) for item in items if not self.has(item)]
        with suppress(OSError), self._index() as index:
            index.remove(keys)

    def _note_fetches(self, items: list[Item]) -> None:
        """Record entries before they are fetched, in case of a kill, and keep to the limit."""
        with self._index() as index:
            for item in items:
                index.record(item.name, "fetched", why := self._why_fetch(item, index))
                log.debug("fetching %s: %s", item.name, why)
                index.add(_row(item))
            over = index.total() - cache_limit(self.root)
        if over > 0:
            self.room.evict(over, "the cache's limit", spare={_key(item) for item in items})

    def get(self, item: Item) -> Path:
        """The entry for an input, fetched first if it is missing.

        A file's entry may be evicted at any time, a tree's not before this object is closed. Blocks
        while another process fetches the same. Raises `SourceChanged` if the input differs from the
        plan, `UnusableInput`, `DiskFull`, or OSError.
        """
        if item.kind == "file":
            return self.get_file(item)[0]
        self.fetch_missing([item])
        return self._get(item)

    def get_file(self, item: Item) -> tuple[Path, os.stat_result]:
        """`get` for a file; also returns the entry's status, which is known then."""
        key = _key(item)
        entry = self._entry(key, "file")
        if (status := status_if_intact(entry, item)) is None:
            self.fetch_missing([item])
            return self._get(item), entry.stat()
        self._used[key] = _row(item)
        return entry, status

    def _get(self, item: Item, *, has_room: bool = False) -> Path:
        """Like `get`, for recorded entries; ``has_room`` if space for it is reserved already."""
        key = _key(item)
        entry = self._entry(key, item.kind)
        if item.kind == "file":
            if not is_intact(entry, item):
                with exclusive(self._locks, _fetching(item.identity)):
                    if not is_intact(entry, item):
                        self._fetch(item, key, entry, has_room=has_room)
        else:
            self._hold_tree(item, key, entry, has_room=has_room)
        self._used[key] = _row(item)
        return _contents(entry, item)

    def _hold_tree(self, item: Item, key: str, entry: Path, *, has_room: bool) -> None:
        """Share the tree's lock until this object is closed, and ensure that the tree is here.

        Users of an entry share the lock of its key; evicting needs that lock exclusively, and never
        waits; fetching needs the lock of the identity exclusively. Therefore no cycle of waits is
        possible.
        """
        if key not in self._held:
            self._held[key] = KeyLock(self._locks, key)
        lock = self._held[key]
        try:
            lock.share()
            if not is_intact(entry, item):
                with exclusive(self._locks, _fetching(item.identity)):
                    if not is_intact(entry, item):
                        self._fetch(item, key, entry, has_room=has_room)
        except BaseException:
            self._held.pop(key).close()
            raise

    def _fetch(self, item: Item, key: str, entry: Path, *, has_room: bool) -> None:
        """Create the entry; the lock of its identity is held."""
        if os.path.lexists(entry):
            self._record(
                item.name, "dropped", "it was damaged, perhaps by a cleaner of temporary files"
            )
        partial = self.root / "partial" / key
        partial.parent.mkdir(mode=0o700, exist_ok=True)
        self._remove(partial)  # what a killed process left
        try:
            room = nullcontext() if has_room else self.room.if_scarce(item.allocated, item.name)
            with room:
                self._copy_in(item, partial)
        except BaseException as exc:
            self._remove(partial)
            if isinstance(exc, OSError):
                raise copy_error(exc, item.name, self.root, item.allocated) from exc
            raise
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if item.kind == "tree":
            self._set_aside(entry)
        else:
            self._remove(entry)
        partial.rename(entry)

    def _copy_in(self, item: Item, partial: Path) -> None:
        """Copy the source, or the other entry of it if there is one, to ``partial``."""
        brought = self._tree_in if item.kind == "tree" else self._file_in
        if brought(item, partial):
            self.files += item.files
            self.bytes += item.size

    def _tree_in(self, item: Item, partial: Path) -> bool:
        """Returns whether the tree came from outside this cache."""
        partial.mkdir(mode=0o700)
        target, readonly = partial / "tree", item.readonly
        other = _key(replace(item, readonly=not readonly))
        with shared(self._locks, other):
            entry = self._entry(other, "tree")
            if near := is_intact(entry, item):
                state = copy_tree(entry / "tree", target, (), readonly=readonly, is_copy=True)
        if not near and self._channel is not None and self.is_sent(item):
            source = item.source
            state = receive_tree(self._channel, source, target, item.exclude, readonly=readonly)
        elif not near:
            state = copy_tree(local(item.source), target, item.exclude, readonly=readonly)
        if state.content != item.content:
            raise SourceChanged(item.name)
        return not near

    def _file_in(self, item: Item, target: Path) -> bool:
        """Returns whether the file came from outside this cache."""
        expected = (item.size, item.mtime_ns)
        mode = item.permissions & 0o555 | 0o400 if item.readonly else item.permissions | 0o600
        other = replace(item, readonly=not item.readonly)
        near = self._entry(_key(other), "file")
        if is_intact(near, other):
            with suppress(FileNotFoundError):  # it was evicted just now
                copy_file(near, target, expected, mode=mode)
                return False
        if item.url is not None:
            download(item.url, target, *expected, mode=mode)
        elif self._channel is not None and self.is_sent(item):
            receive_file(self._channel, item.source, target, expected, mode)
        else:
            until_not_older(local(item.source), item.mtime_ns)
            copy_file(local(item.source), target, expected, mode=mode)
        return True

    def is_whole(self, item: Item, *, written: bool = False) -> bool:
        """Whether the entry is here as it was fetched, see `integrity.is_intact`."""
        return is_intact(self.place_of(item), item, written=written)

    def _why_fetch(self, item: Item, index: Index) -> str:
        source = item.name
        rows, events = index.of_source(source), index.events(source)
        keys, last = {row.key for row in rows}, events[-1] if events else None
        if last is not None and last.what != "fetched" and (not rows or _key(item) in keys):
            return f"it was {last.what}: {last.why}"
        if _key(item) in keys or (last is not None and not rows):
            return "its entry had been removed"
        if _key(replace(item, readonly=not item.readonly)) in keys:
            return "it is needed read-only, too" if item.readonly else "it is needed writable, too"
        return _what_changed(rows[0].state, _state(item)) if rows else "first use on this host"

    def _record(self, source: str, what: str, why: str) -> None:
        with suppress(OSError), self._index() as index:
            index.record(source, what, why)

    def _set_aside(self, entry: Path) -> None:
        """Move a damaged tree away; its users keep it, and `tidy` removes it."""
        if os.path.lexists(entry):
            entry.rename(self.root / "partial" / f"{entry.name}-{token_hex(4)}")

    def drop(self, rows: Iterable[Row], why: str, *, linked: bool = False) -> list[Row]:
        """Remove entries, unless tasks use them; returns those that were removed.

        Files that tasks have links to are removed only with ``linked``: that frees nothing.
        """
        with ExitStack() as locks:
            gone = [row for row in rows if self._dropped(row, why, locks, linked=linked)]
            if gone:
                with self._index() as index:
                    index.remove(row.key for row in gone)
                    for row in gone:
                        index.record(row.source, "evicted", why)
        return gone

    def _dropped(self, row: Row, why: str, locks: ExitStack, *, linked: bool) -> bool:
        """Remove an unused entry; its lock is held until the index is updated."""
        lock = KeyLock(self._locks, row.key)
        locks.callback(lock.close)
        entry = self._entry(row.key, row.kind)
        if not lock.take_if_free() or (not linked and _is_linked(entry)):
            return False
        log.debug("evicting %s: %s", row.source, why)
        self._remove(entry)
        return True

    def _remove(self, path: Path) -> None:
        """Remove an entry or a partial one, after renaming it; its lock is held."""
        if os.path.lexists(path):
            doomed = self.root / "partial" / f"{path.name}-{token_hex(4)}"
            with suppress(FileNotFoundError):
                path.rename(doomed)
                try:
                    remove_tree(doomed, self._storage)
                except OSError as exc:
                    warnings.warn(f"cannot remove {doomed} from the cache: {exc}", stacklevel=2)

    def rows(self) -> list[Row]:
        """All recorded entries, least recently used first."""
        with self._index() as index:
            return list(index.oldest_first())

    def rows_of(self, source: str) -> list[Row]:
        """The entries of one source, the newest first."""
        with self._index() as index:
            return index.of_source(source)

    def events(self, source: str) -> list[Event]:
        """The history of one source, the oldest event first."""
        with self._index() as index:
            return index.events(source)

    def tidy(self) -> dict[Path, OSError]:
        """Remove what killed processes left partly fetched or evicted, or what was set aside.

        Returns what cannot be removed.
        """
        stayed: dict[Path, OSError] = {}
        for path in (self.root / "partial").iterdir():
            key = path.name.split("-")[0]
            using = KeyLock(self._locks, key)
            fetching = KeyLock(self._locks, _fetching(key.removesuffix(_READONLY)))
            try:
                if using.take_if_free() and fetching.take_if_free():
                    remove_tree(path, self._storage)
            except OSError as exc:
                stayed[path] = exc
            finally:
                using.close()
                fetching.close()
        return stayed

    def adopt(self) -> None:
        """Record entries that were not recorded because their process was killed."""
        with self._index() as index:
            self._adopt(index)

    def _adopt(self, index: Index) -> None:
        """Record entries that the index does not have."""
        known = {row.key for row in index.oldest_first()}
        for kind in ("file", "tree"):
            for entry in (self.root / f"{kind}s").glob("*/*"):
                if entry.name in known:
                    continue
                with suppress(FileNotFoundError, UnusableInput):  # cleared in the meantime
                    size, files = _measured(entry)
                    now = time.time()
                    row = Row(entry.name, kind, UNKNOWN, UNKNOWN, size, files, now, now)
                    index.add(row)

    @property
    def trees(self) -> Path:
        """The folder with the entries of trees."""
        return self.root / "trees"

    def place_of(self, item: Item) -> Path:
        """The path of an input's entry, whether or not it exists."""
        return self._entry(_key(item), item.kind)

    def contents_of(self, item: Item) -> Path:
        """The path of the file or tree in an input's entry, whether or not it exists."""
        return _contents(self.place_of(item), item)

    def forget_damaged(self, item: Item, why: str = "a task wrote to it") -> None:
        """Mark the entry of an input to be fetched again."""
        entry = self._entry(_key(item), item.kind)
        with exclusive(self._locks, _fetching(item.identity)):
            if item.kind == "tree":
                self._set_aside(entry)
            else:
                self._remove(entry)
        self._record(item.name, "dropped", why)


_READONLY = ".ro"


def _key(item: Item) -> str:
    return item.identity + (_READONLY if item.readonly else "")


def _contents(entry: Path, item: Item) -> Path:
    return entry / "tree" if item.kind == "tree" else entry


def _fetching(identity: str) -> str:
    """The key of the lock for fetching, which differs from the lock for using."""
    return f"fetching {identity}"


def _is_linked(entry: Path) -> bool:
    """Whether a file's entry is linked into a task's folder: evicting it would free nothing."""
    try:
        status = entry.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _state(item: Item) -> str:
    what = f"{counted(item.files, 'file')}, " if item.kind == "tree" else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item.mtime_ns / 1e9))
    nanoseconds = f"{item.mtime_ns % 10**9:09}"
    return (
        f"{what}{item.size} bytes, permissions {item.permissions:o}, changed {when}.{nanoseconds}"
    )


def _what_changed(before: str, now: str) -> str:
    if before == now:
        return "it changed: a different file or folder with the same size and time replaced it"
    return f"it changed: {before}; now {now}"


def _row(item: Item) -> Row:
    now = time.time()
    room = item.allocated
    return Row(_key(item), item.kind, item.name, _state(item), room, item.files, now, now)


def _measured(entry: Path) -> tuple[int, int]:
    if entry.is_file():
        return allocated(entry.stat()), 1
    state = tree_state(entry / "tree", is_copy=True)
    return state.allocated, state.files


def clear_cache(*, dry_run: bool = False) -> int:
    """Remove all entries except trees in use; returns the freed bytes."""
    if not (local_storage_path() / "cache").is_dir():
        return 0
    freed = 0
    with HostCache() as cache:
        sources = {row.key: row.source for row in cache.rows()}
        for kind in ("file", "tree"):
            entries = iter(sorted((cache.root / f"{kind}s").glob("*/*")))
            while some := list(islice(entries, _AT_ONCE)):
                rows = [row for entry in some if (row := _row_of(entry, kind, sources))]
                gone = rows if dry_run else cache.drop(rows, "the cache was cleared", linked=True)
                freed += sum(row.size for row in gone)
    return freed


def _row_of(entry: Path, kind: str, sources: dict[str, str]) -> Row | None:
    """The record of an entry on the disk; None if another process is removing it."""
    with suppress(FileNotFoundError, UnusableInput):
        size, files = _measured(entry)
        return Row(entry.name, kind, sources.get(entry.name, UNKNOWN), "", size, files, 0, 0)
    return None
