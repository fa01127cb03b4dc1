"""The host cache: every input file that tasks share is brought to this host's disk once.

One per user and host, used by any number of processes at once and kept between runs. A file is
found again by where it is and by size, modification time, permissions, inode and device, so a
changed file is another entry. Entries come in by rename and are never written again; one that is
not as it was fetched (a task wrote to it, the host lost power) is fetched anew. A lock that the
kernel drops with its holder sees to it that each is fetched once. The index (SQLite) says what to
evict first; the files themselves are the truth.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from encamp.errors import BadJob, SourceChanged, printable
from encamp.storage.copy import copy_file
from encamp.storage.roots import local_storage, local_storage_path, portable

LIMIT = "ENCAMP_CACHE_LIMIT"
INDEX = "index.sqlite"
_SHARE_OF_DISK = 0.2
_NO_LINK = {errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP}

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS entry (
    key TEXT PRIMARY KEY, source TEXT, size INTEGER, fetched REAL, used REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON entry (used);
"""
_NOTE = """
INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET used = excluded.used
"""


class HostCache:
    """Access to this host's cache; a context manager, not for sharing between threads.

    ``files`` and ``bytes`` count what this object brought to the host.
    """

    def __init__(self) -> None:
        self.root = local_storage() / "cache"
        self._entries = self.root / "files"
        self._entries.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._used: dict[str, tuple[str, int]] = {}
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
        """Note what was used, for the choice of what to evict; a note that fails costs no more."""
        now = time.time()
        rows = [(key, *facts, now, now) for key, facts in self._used.items() if self._holds(key)]
        if rows:
            with suppress(OSError), self._index() as index:
                index.executemany(_NOTE, rows)
        self._used.clear()

    def _entry(self, key: str) -> Path:
        return self._entries / key[:2] / key

    def _holds(self, key: str) -> bool:
        return self._entry(key).exists()

    def link(self, source: Path, place: Path, expected: tuple[int, int]) -> None:
        """Put the file into ``place`` as a read-only link to its entry, fetching it if need be.

        ``expected`` is its size and mtime_ns; raises `SourceChanged` if it has others now.
        Blocks while another process fetches the same file.
        """
        status = source.stat()
        if (status.st_size, status.st_mtime_ns) != expected:
            raise SourceChanged(str(source))
        key = _key(source, status)
        entry = self._entry(key)
        fresh = False
        while not _linked(entry, place, None if fresh else expected):
            with self._alone(key):
                if not _sound(entry, expected):
                    self._fetch(source, entry, expected, status.st_mode)
                    fresh = True  # as it should be, even where this disk's times are coarse
        self._used[key] = (printable(source), expected[0])

    def _fetch(self, source: Path, entry: Path, expected: tuple[int, int], mode: int) -> None:
        entry.parent.mkdir(mode=0o700, exist_ok=True)
        partial = _partial(entry)
        partial.unlink(missing_ok=True)  # what a killed process left; the lock is ours now
        self._make_room(entry.name, source, expected[0])
        copy_file(source, partial, expected, mode=mode & 0o555 | 0o400)
        with suppress(FileNotFoundError):  # evicted while it came; then it comes again
            partial.rename(entry)
        self.files += 1
        self.bytes += expected[0]

    def _make_room(self, new: str, source: Path, size: int) -> None:
        """Evict the least recently used entries until the new one fits the limit, and note it.

        It is noted before it is there: a process killed in between leaves nothing uncounted.
        """
        now = time.time()
        with self._index() as index:
            index.execute(_NOTE, (new, printable(source), size, now, now))
            held = index.execute("SELECT sum(size) FROM entry").fetchone()[0]
            excess = held - cache_limit(self.root)
            for key, freed in index.execute("SELECT key, size FROM entry ORDER BY used").fetchall():
                if excess <= 0:
                    return
                if key != new:
                    self._drop(key, index)
                    excess -= freed

    def drop(self, place: Path) -> None:
        """Forget the entry that ``place`` is a link to: something wrote to it."""
        damaged = place.stat()
        for entry in self._entries.glob("*/*"):
            with suppress(FileNotFoundError):  # evicted just now
                if os.path.samestat(entry.stat(), damaged):
                    with self._index() as index:
                        self._drop(entry.name, index)

    def _drop(self, key: str, index: sqlite3.Connection) -> None:
        entry = self._entry(key)
        entry.unlink(missing_ok=True)
        _partial(entry).unlink(missing_ok=True)
        index.execute("DELETE FROM entry WHERE key = ?", (key,))

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(_opened(self.root / INDEX)) as index, index:
                yield index
        except sqlite3.Error as exc:
            raise _as_os_error(exc, self.root / INDEX) from exc

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Keep other processes from fetching the same entry: one byte of a lock file per key.

        An open-file-description lock, see fcntl(2): it goes with the last copy of its descriptor,
        and when it is given up, whatever processes were forked meanwhile.
        """
        fd = os.open(self.root / "locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _lock_request(fcntl.F_WRLCK, key))
            yield
        finally:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_UNLCK, key))
            os.close(fd)


def _partial(entry: Path) -> Path:
    return entry.with_name(entry.name + ".part")


def _lock_request(kind: int, key: str) -> bytes:
    return struct.pack("hhqqixxxx", kind, os.SEEK_SET, int(key[:15], 16), 1, 0)


def _opened(path: Path) -> sqlite3.Connection:
    """The index, made where it is missing, and anew where it is damaged: it can be lost."""
    try:
        return _connected(path)
    except sqlite3.DatabaseError as exc:
        if _code(exc) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=60)
    try:
        index.execute("PRAGMA synchronous = OFF")
        index.executescript(_SCHEMA)
    except BaseException:
        index.close()
        raise
    return index


def _as_os_error(exc: sqlite3.Error, path: Path) -> OSError:
    kind = errno.ENOSPC if _code(exc) == sqlite3.SQLITE_FULL else errno.EIO
    return OSError(kind, f"the cache's index: {exc}", str(path))


def _code(exc: sqlite3.Error) -> int | None:
    return getattr(exc, "sqlite_errorcode", None)


def cache_limit(root: Path) -> int:
    """How many bytes the cache may hold: ENCAMP_CACHE_LIMIT, or a fifth of its disk.

    Raises `BadJob` where that is no number.
    """
    given = os.environ.get(LIMIT)
    if not given:
        return int(shutil.disk_usage(root).total * _SHARE_OF_DISK)
    if not given.isdecimal():
        raise BadJob(LIMIT, f"must be a whole number of bytes, not {given!r}")
    return int(given)


def _key(source: Path, status: os.stat_result) -> str:
    state = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_mode)
    facts = repr((portable(source), *state)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(facts, digest_size=20).hexdigest()


def _sound(file: Path, expected: tuple[int, int] | None) -> bool:
    """Whether an entry, or a link to it, is there and as it was fetched."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return False
    as_fetched = (found.st_size, found.st_mtime_ns) == expected and not found.st_mode & 0o222
    return expected is None or as_fetched


def _linked(entry: Path, place: Path, expected: tuple[int, int] | None) -> bool:
    """Link ``entry`` to ``place``, or copy it where the disk has no (more) links.

    False if it is gone, or not as ``expected``.
    """
    if not _sound(entry, expected):
        return False
    try:
        os.link(entry, place)
    except FileNotFoundError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_LINK:
            raise
        copy_file(entry, place, None, mode=stat.S_IMODE(entry.stat().st_mode))
    return True


def clear_cache(*, dry_run: bool = False) -> int:
    """Remove all entries and return how many bytes they held; tasks keep the links they have."""
    root = local_storage_path() / "cache"
    entries = [entry for entry in root.glob("files/*/*") if entry.is_file()]
    size = sum(entry.stat().st_size for entry in entries)
    if entries and not dry_run:
        local_storage()  # nothing is removed from a folder that is not this user's own
        with suppress(sqlite3.Error), closing(_opened(root / INDEX)) as index, index:
            index.execute("DELETE FROM entry")
        for entry in entries:
            entry.unlink(missing_ok=True)
    return size
