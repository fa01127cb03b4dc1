"""Room for inputs: the cache's size limit, reserved disk space, and what is evicted for them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from secrets import token_hex

from encamp.errors import BadJob, DiskFull
from encamp.storage.cache.index import Index, Row
from encamp.storage.disk.disk_full import free_space
from encamp.storage.process_identity import facts_in, this_process
from encamp.units import parse_size, size_text

LIMIT = "ENCAMP_CACHE_LIMIT"
_SHARE_OF_DISK = 0.2
"""The limit, if the variable is not set."""
_SPARE = 1 << 20
"""Bytes that are always left free on the disk."""
_PLENTY = 100
"""Space is reserved if the need is more than this part of the free space."""
_AT_ONCE = 100
"""Entries to read in one transaction."""


class Room:
    """Room on the disk of a cache; for one thread at a time.

    ``index`` opens the cache's index for one transaction; ``held`` are the keys of entries that
    this process uses; ``drop`` removes entries, for a reason, and returns those that were removed.
    """

    def __init__(
        self,
        root: Path,
        index: Callable[[], AbstractContextManager[Index]],
        held: Container[str],
        drop: Callable[[Iterable[Row], str], list[Row]],
    ) -> None:
        self._root, self._index, self._held, self._drop = root, index, held, drop

    def if_scarce(self, need: int, what: str) -> AbstractContextManager[None]:
        """`reserved` if ``need`` is a large part of the free space; otherwise does nothing."""
        return self.reserved(need, what) if self.is_scarce(need) else nullcontext()

    def is_scarce(self, need: int) -> bool:
        """Whether ``need`` bytes are a large part of the free space."""
        return need * _PLENTY > free_space(self._root)

    @contextmanager
    def reserved(self, need: int, what: str) -> Iterator[None]:
        """Ensure that ``need`` bytes can be written to the local disk during a block.

        Space that others have reserved counts as used. The least recently used entries are evicted
        if necessary. Raises `DiskFull`.
        """
        owner = json.dumps({**this_process().as_dict(), "token": token_hex(4)})
        while (free := self._free_for(need, owner)) < need:
            if not self.evict(need - free, what, spare=set()):
                why = f"{size_text(need)} are needed, {size_text(free)} are free"
                with suppress(OSError), self._index() as index:
                    index.record(what, "refused", why)
                raise DiskFull(str(self._root), need, max(0, free))
        try:
            yield
        finally:
            with suppress(OSError), self._index() as index:
                index.give_room_back(owner)

    def _free_for(self, need: int, owner: str) -> int:
        """The free bytes without reserved ones; if they suffice, ``need`` is reserved."""
        with self._index() as index:
            _forget_dead(index)
            promised = sum(size for _, size in index.rooms())
            free = free_space(self._root) - promised - _SPARE
            if free >= need:
                index.ask_room(owner, need)
        return free

    def evict(self, size: int, what: str, *, spare: set[str]) -> bool:
        """Remove the least recently used entries, of ``size`` bytes together or more, if possible.

        Returns whether anything was removed; the disk may have gained less, because entries are
        recorded before they are fetched.
        """
        dropped = 0
        for page in self._pages():
            for row in page:
                if dropped < size and row.key not in spare and row.key not in self._held:
                    gone = self._drop([row], f"room for {what}")
                    dropped += sum(max(1, row.size) for row in gone)
            if dropped >= size:
                break
        return dropped > 0

    def _pages(self) -> Iterator[list[Row]]:
        """All entries, some at a time, least recently used first."""
        last = None
        while True:
            with self._index() as index:
                page = index.next_oldest(last, _AT_ONCE)
            if not page:
                return
            yield page
            last = page[-1]


def _forget_dead(index: Index) -> None:
    for owner, _ in index.rooms():
        facts = facts_in(owner.encode())
        if facts is None or facts.known_dead:
            index.give_room_back(owner)


def cache_limit(root: Path) -> int:
    """The size limit of the cache in bytes: ENCAMP_CACHE_LIMIT, or a fifth of its disk.

    Raises `BadJob` if that is not a size.
    """
    given = os.environ.get(LIMIT)
    if not given:
        return int(shutil.disk_usage(root).total * _SHARE_OF_DISK)
    size = parse_size(given)
    if size is None:
        raise BadJob(LIMIT, f"must be a size such as 500000000 or '20 GiB', not {given!r}")
    return size
