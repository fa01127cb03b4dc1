"""Publishing staged outputs: they are checked, recorded, flushed, and get their final names.

Sandboxes, spawned tasks and jobs publish in this way, jobs many tasks at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from encamp.attempt_facts import Published
from encamp.errors import BadDestination, EncampError
from encamp.storage.outputs.publish import (
    flush_copies,
    flush_error,
    flush_folders,
    names_to_take,
    parents,
    publish,
)
from encamp.storage.outputs.stage import Staged, unstage


class Delivery(msgspec.Struct):
    """Staged outputs of one task on their way to their final names.

    ``own`` are final names that may be replaced anyway, see `publish`. If ``lenient``, files that
    cannot be published are left out; otherwise they are the ``error``, and none is published.
    """

    staged: list[Staged]
    own: Collection[str] = ()
    lenient: bool = False
    names: list[str] = msgspec.field(default_factory=list)
    """The final names that it will give, when these were checked."""
    published: list[Published] = msgspec.field(default_factory=list)
    error: Exception | None = None

    def parts(self) -> Iterator[list[Staged]]:
        """What succeeds or fails together."""
        return iter([[one] for one in self.staged] if self.lenient else [self.staged])

    def refuse(self, exc: Exception, refused: Collection[Staged] = ()) -> None:
        """Record that it cannot be published; if it is lenient, only the ``refused`` cannot."""
        if self.lenient:
            unstage(refused)
            self.staged = [one for one in self.staged if one not in refused]
        else:
            self.error = self.error or exc


def deliver(
    deliveries: Collection[Delivery], record: Callable[[], Iterable[Path]] | None = None
) -> None:
    """Publish together; each delivery then has its ``published`` files, or its ``error``.

    ``record`` is called before any file gets its final name, when all ``names`` are checked; it
    may refuse deliveries, and returns files to flush with the copies. What cannot be published is
    removed. Blocks. Raises only what ``record`` raises.
    """
    try:
        for one in deliveries:
            _check(one)
        _flush(deliveries, list(record()) if record is not None else [])
        for one in deliveries:
            _publish(one)
        _flush_folders(deliveries)
    except BaseException:  # a signal, for instance
        for one in deliveries:
            unstage(one.staged)
        raise
    for one in deliveries:
        if one.error is not None:
            unstage(one.staged)


def deliver_one(staged: list[Staged], *, lenient: bool = False) -> list[Published]:
    """Publish the outputs of one task. Raises as `publish` does, unless ``lenient``."""
    one = Delivery(staged, lenient=lenient)
    if staged:
        deliver([one])
    if one.error is not None:
        raise one.error
    return one.published


def _check(delivery: Delivery) -> None:
    if delivery.error is not None:
        return
    for part in delivery.parts():
        try:
            delivery.names += names_to_take(part, delivery.own)
        except (EncampError, OSError) as exc:
            delivery.refuse(exc, part)


def _flush(deliveries: Iterable[Delivery], files: list[Path]) -> None:
    """Flush copies, and the record of their final names, before anything is renamed."""
    copies: list[Staged] = []
    for delivery in deliveries:
        if delivery.error is None:
            copies += delivery.staged
    if not copies:
        return
    failed = flush_copies(copies, files)
    unwritten = [failed[str(file)] for file in files if str(file) in failed]
    for delivery in deliveries if failed else ():
        for one in delivery.staged:
            for exc in (failed.get(one.part), *unwritten):
                if exc is not None:
                    delivery.refuse(flush_error(one, exc), [one])


def _publish(delivery: Delivery) -> None:
    """Give the final names."""
    if delivery.error is not None:
        return
    for part in delivery.parts():
        try:
            delivery.published += publish(part, delivery.own)
        except (EncampError, OSError) as exc:
            delivery.refuse(exc, part)


def _flush_folders(deliveries: Iterable[Delivery]) -> None:
    """Wait until the new names are on the disk; if some may not be there, their delivery fails."""
    published: list[Published] = []
    for delivery in deliveries:
        published += delivery.published
    failed: dict[Path, BadDestination] = {}
    for folder in parents(published) if published else ():
        try:
            flush_folders([folder])
        except BadDestination as exc:
            failed[folder] = exc
    for delivery in deliveries if failed else ():
        if unwritten := parents(delivery.published) & failed.keys():
            delivery.refuse(failed[unwritten.pop()])
