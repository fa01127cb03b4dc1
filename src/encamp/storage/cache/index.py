"""The index of the host cache: its entries, when they were used, who reserves space, and a history.

It is an SQLite file that many processes use at once. It may be lost: entries on the disk are found
without it, and a damaged index is created again.
"""

from __future__ import annotations

import errno
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from encamp.storage.process_identity import boot_id

EVENTS_KEPT = 10_000
"""How many of the newest events are kept."""

_VERSION = 2
UNKNOWN = "unknown"
"""Source and state of an entry whose record was lost."""
_SCHEMA = (
    """CREATE TABLE entry (
        key TEXT PRIMARY KEY, kind TEXT, source TEXT, state TEXT,
        size INTEGER, files INTEGER, fetched REAL, used REAL) WITHOUT ROWID""",
    "CREATE INDEX by_use ON entry (used)",
    "CREATE INDEX by_source ON entry (source)",
    "CREATE TABLE total (size INTEGER)",
    "INSERT INTO total VALUES (0)",
    "CREATE TRIGGER added AFTER INSERT ON entry BEGIN UPDATE total SET size = size + new.size; END",
    """CREATE TRIGGER removed AFTER DELETE ON entry
        BEGIN UPDATE total SET size = size - old.size; END""",
    """CREATE TABLE event (
        number INTEGER PRIMARY KEY, time REAL, source TEXT, what TEXT, why TEXT)""",
    "CREATE INDEX event_source ON event (source)",
    "CREATE TABLE room (owner TEXT, bytes INTEGER)",
)


class Row(msgspec.Struct, frozen=True):
    """One entry. ``state`` describes its source when it was fetched."""

    key: str
    kind: str
    source: str
    state: str
    size: int
    files: int
    fetched: float
    used: float


class Event(msgspec.Struct, frozen=True):
    """An action on a source, and its reason."""

    time: float
    source: str
    what: str
    why: str


class Index:
    """An open index; use `opened`. Everything between opening and closing is one transaction."""

    def __init__(self, database: sqlite3.Connection, *, fresh: bool) -> None:
        self._database = database
        self.fresh = fresh
        """Whether it was just created and is empty."""

    def add(self, row: Row) -> None:
        """Record an entry; of a recorded one update the use, and fill in what was unknown."""
        values = (row.key, row.kind, row.source, row.state, row.size, row.files)
        self._database.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET used = excluded.used,"
            " source = CASE source WHEN ?9 THEN excluded.source ELSE source END,"
            " state = CASE state WHEN ?9 THEN excluded.state ELSE state END",
            (*values, row.fetched, row.used, UNKNOWN),
        )

    def remove(self, keys: Iterable[str]) -> None:
        """Remove entries."""
        self._database.executemany("DELETE FROM entry WHERE key = ?", [(key,) for key in keys])

    def used(self, keys: Iterable[str], when: float) -> None:
        """Record that entries were used."""
        self._database.executemany(
            "UPDATE entry SET used = ? WHERE key = ?", [(when, key) for key in keys]
        )

    def total(self) -> int:
        """Bytes of all entries."""
        return int(self._database.execute("SELECT size FROM total").fetchone()[0])

    def oldest_first(self) -> Iterator[Row]:
        """All entries, least recently used first."""
        rows = self._database.execute("SELECT * FROM entry ORDER BY used").fetchall()
        return (Row(*row) for row in rows)

    def next_oldest(self, last: Row | None, count: int) -> list[Row]:
        """The next entries in that order, after ``last``, or the first."""
        after = (last.used, last.key) if last is not None else (-1.0, "")
        query = "SELECT * FROM entry WHERE (used, key) > (?, ?) ORDER BY used, key LIMIT ?"
        return [Row(*row) for row in self._database.execute(query, (*after, count))]

    def of_source(self, source: str) -> list[Row]:
        """The entries of one source, the newest first."""
        query = "SELECT * FROM entry WHERE source = ? ORDER BY fetched DESC"
        return [Row(*row) for row in self._database.execute(query, (source,))]

    def record(self, source: str, what: str, why: str) -> None:
        """Record an event; the oldest are removed."""
        cursor = self._database.execute(
            "INSERT INTO event (time, source, what, why) VALUES (?, ?, ?, ?)",
            (time.time(), source, what, why),
        )
        self._database.execute(
            "DELETE FROM event WHERE number <= ?", ((cursor.lastrowid or 0) - EVENTS_KEPT,)
        )

    def events(self, source: str) -> list[Event]:
        """The events of one source, the oldest first."""
        query = "SELECT time, source, what, why FROM event WHERE source = ? ORDER BY number"
        return [Event(*row) for row in self._database.execute(query, (source,))]

    def rooms(self) -> list[tuple[str, int]]:
        """Who has reserved how many bytes of the disk."""
        return self._database.execute("SELECT owner, bytes FROM room").fetchall()

    def ask_room(self, owner: str, size: int) -> None:
        """Reserve ``size`` bytes for ``owner``."""
        self._database.execute("INSERT INTO room VALUES (?, ?)", (owner, size))

    def give_room_back(self, owner: str) -> None:
        """Release the reservations of ``owner``."""
        self._database.execute("DELETE FROM room WHERE owner = ?", (owner,))


@contextmanager
def opened(path: Path) -> Iterator[Index]:
    """The index for one transaction, which others wait for. Raises OSError (ENOSPC, EIO)."""
    try:
        with closing(_begun(path)) as database:
            try:
                if fresh := not _is_current(database):
                    _make_tables(database)
                yield Index(database, fresh=fresh)
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
    except sqlite3.Error as exc:
        if _is_damaged(exc):
            _remove(path)  # the next opening makes a new one
        kind = errno.ENOSPC if _code(exc) == sqlite3.SQLITE_FULL else errno.EIO
        raise OSError(kind, f"the cache's index: {exc}", str(path)) from exc


def _begun(path: Path) -> sqlite3.Connection:
    """A connection in a transaction, to a new database if there is none that works.

    No write-ahead log: the change to it does not wait for others, see sqlite.org/wal.html.
    """
    try:
        return _connected(path)
    except sqlite3.DatabaseError as exc:
        if not _is_damaged(exc):
            raise
        _remove(path)
        return _connected(path)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        database.execute("PRAGMA synchronous = OFF")  # after a power loss, it is created again
        database.execute("BEGIN IMMEDIATE")  # reads it, too: damage of its first page shows here
        _check_once_a_boot(database)
    except BaseException:
        database.close()
        raise
    return database


class _DamagedError(sqlite3.DatabaseError):
    """A page of the database is not as it was written."""


def _is_damaged(exc: sqlite3.Error) -> bool:
    primary = (_code(exc) or 0) & 0xFF  # a code such as SQLITE_CORRUPT_INDEX has more bits
    known = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
    return isinstance(exc, _DamagedError) or primary in known


def _check_once_a_boot(database: sqlite3.Connection) -> None:
    """Check all pages if the host has started anew: a power cut may have damaged any of them."""
    boot = zlib.crc32(boot_id().encode()) >> 1
    if database.execute("PRAGMA application_id").fetchone()[0] == boot:
        return
    if database.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
        raise _DamagedError("it is damaged")
    database.execute(f"PRAGMA application_id = {boot}")


def _is_current(database: sqlite3.Connection) -> bool:
    return bool(database.execute("PRAGMA user_version").fetchone()[0] == _VERSION)


def _make_tables(database: sqlite3.Connection) -> None:
    """Create the tables, in place of those of a different version."""
    old = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (name,) in old:
        database.execute(f'DROP TABLE "{name}"')
    for statement in _SCHEMA:
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {_VERSION}")


def _code(exc: sqlite3.Error) -> int | None:
    return getattr(exc, "sqlite_errorcode", None)
