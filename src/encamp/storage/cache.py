"""The host cache: every input file that tasks share is brought to this host's disk once.

One per user and host, used by any number of processes at once and kept between runs. A file is
found again by where it is and by size, modification time, inode and device, so a changed file is
another entry. Entries come in by rename and are never written again; a lock that the kernel drops
with its holder sees to it that each is fetched once. The index (SQLite) says what to evict first;
the files themselves are the truth.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

from encamp.errors import SourceChanged
from encamp.storage.copy import copy_file
from encamp.storage.roots import local_storage, local_storage_path, portable

LIMIT = "ENCAMP_CACHE_LIMIT"
_SHARE_OF_DISK = 0.2
_NO_LINK = {errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    key TEXT PRIMARY KEY, source TEXT, size INTEGER, fetched REAL, used REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON entry (used);
"""


class HostCache:
    """Access to this host's cache; a context manager, not for sharing between threads.

    ``files`` and ``bytes`` count what this object brought to the host.
    """

    def __init__(self) -> None:
        self.root = local_storage() / "cache"
        self._entries = self.root / "files"
        self._entries.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._used: set[str] = set()
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
        """Note what was used, for the choice of what to evict."""
        if self._used:
            now = time.time()
            with self._index() as index:
                index.executemany(
                    "UPDATE entry SET used = ? WHERE key = ?", [(now, key) for key in self._used]
                )
            self._used.clear()

    def link(self, source: Path, place: Path, expected: tuple[int, int]) -> None:
        """Put the file into ``place`` as a read-only link to its entry, fetching it if need be.

        ``expected`` is its size and mtime_ns; raises `SourceChanged` if it has others now.
        Blocks while another process fetches the same file.
        """
        status = source.stat()
        if (status.st_size, status.st_mtime_ns) != expected:
            raise SourceChanged(str(source))
        key = _key(source, status)
        entry = self._entries / key[:2] / key
        if not _linked(entry, place):
            with self._alone(key):
                if not entry.exists():
                    self._fetch(source, entry, expected, status.st_mode)
                _linked(entry, place)
        self._used.add(key)

    def _fetch(self, source: Path, entry: Path, expected: tuple[int, int], mode: int) -> None:
        entry.parent.mkdir(mode=0o700, exist_ok=True)
        partial = entry.with_name(entry.name + ".part")
        partial.unlink(missing_ok=True)  # what a killed process left; the lock is ours now
        self._make_room(expected[0])
        copy_file(source, partial, expected, mode=mode & 0o555 | 0o400)
        partial.rename(entry)
        self.files += 1
        self.bytes += expected[0]
        now = time.time()
        row = (entry.name, str(source), expected[0], now, now)
        with self._index() as index:
            index.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)", row)

    def _make_room(self, size: int) -> None:
        """Evict the least recently used entries until ``size`` more bytes fit the limit."""
        with self._index() as index:
            held = index.execute("SELECT coalesce(sum(size), 0) FROM entry").fetchone()[0]
            excess = held + size - cache_limit(self.root)
            if excess <= 0:
                return
            for key, freed in index.execute("SELECT key, size FROM entry ORDER BY used").fetchall():
                self._drop(key, index)
                excess -= freed
                if excess <= 0:
                    return

    def drop(self, place: Path) -> None:
        """Forget the entry that ``place`` is a link to: something wrote to it."""
        inode = place.stat().st_ino
        for entry in self._entries.glob("*/*"):
            if entry.stat().st_ino == inode:
                with self._index() as index:
                    self._drop(entry.name, index)

    def _drop(self, key: str, index: sqlite3.Connection) -> None:
        (self._entries / key[:2] / key).unlink(missing_ok=True)
        index.execute("DELETE FROM entry WHERE key = ?", (key,))

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.root / "index.sqlite", timeout=60)) as index:
            index.execute("PRAGMA journal_mode = WAL")
            index.execute("PRAGMA synchronous = OFF")
            index.executescript(_SCHEMA)
            with index:
                yield index

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Keep other processes from fetching the same entry: one byte of a lock file per key.

        An open-file-description lock, see fcntl(2): it goes with the last copy of its descriptor.
        """
        fd = os.open(self.root / "locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            start = int(key[:15], 16)
            request = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, request)
            yield
        finally:
            os.close(fd)


def cache_limit(root: Path) -> int:
    """How many bytes the cache may hold: ENCAMP_CACHE_LIMIT, or a fifth of its disk."""
    given = os.environ.get(LIMIT)
    return int(given) if given else int(shutil.disk_usage(root).total * _SHARE_OF_DISK)


def _key(source: Path, status: os.stat_result) -> str:
    facts = (portable(source), status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    return hashlib.blake2b(
        repr(facts).encode("utf-8", "surrogateescape"), digest_size=20
    ).hexdigest()


def _linked(entry: Path, place: Path) -> bool:
    """Link ``entry`` to ``place``, or copy it where the disk has no (more) links; False if gone."""
    try:
        os.link(entry, place)
    except FileNotFoundError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_LINK:
            raise
        copy_file(entry, place, None)
    return True


def clear_cache(*, dry_run: bool = False) -> int:
    """Remove all entries and return how many bytes they held; tasks keep the links they have."""
    root = local_storage_path() / "cache"
    entries = [entry for entry in root.glob("files/*/*") if entry.is_file()]
    size = sum(entry.stat().st_size for entry in entries)
    if not dry_run:
        for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
            (root / name).unlink(missing_ok=True)
        for entry in entries:
            entry.unlink(missing_ok=True)
    return size
