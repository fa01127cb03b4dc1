"""Folders with inputs in them, as tasks get them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from encamp.storage.inputs.mirror import Item, MirrorMap, as_mirrors, plan
from encamp.storage.sandbox_folder import Sandbox


@contextmanager
def placed(items: Iterable[Item]) -> Iterator[Sandbox]:
    """A folder with the items of a plan in it."""
    sandbox = Sandbox("test")
    try:
        sandbox.place(items)
        yield sandbox
    finally:
        sandbox.remove()


@contextmanager
def mirrored(spec: MirrorMap, base: Path) -> Iterator[Path]:
    """A folder with what ``spec`` finds in ``base``."""
    with placed(plan(as_mirrors(spec), base)) as sandbox:
        yield sandbox.folder
