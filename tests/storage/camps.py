"""Folders with inputs in them, as tasks get them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from encamp.storage.camp import Camp
from encamp.storage.inputs.mirror import Item, MirrorMap, as_mirrors, plan


@contextmanager
def placed(items: Iterable[Item]) -> Iterator[Camp]:
    """A folder with the items of a plan in it."""
    camp = Camp("test")
    try:
        camp.place(items)
        yield camp
    finally:
        camp.remove()


@contextmanager
def mirrored(spec: MirrorMap, base: Path) -> Iterator[Path]:
    """A folder with what ``spec`` finds in ``base``."""
    with placed(plan(as_mirrors(spec), base)) as camp:
        yield camp.folder
