"""Where deeds are done: sources, a local storage and a destination, and how they must be left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deeds import outputs_of
from sealed import files_below, is_whole, sealed

from encamp.storage.cache.cache import HostCache
from encamp.storage.disk import overlay
from encamp.storage.disk.temporary_names import PART
from encamp.storage.local_leftovers import reclaim_leftovers
from encamp.storage.local_storage import LOCAL, local_storage_path

SIZES = {"small": 150_000, "large": 1_100_000, "shut": 80_000, "own": 90_000}
TREES = {"forest": 36, "twigs": 3, "shrub": 4}


def make_sources(source: Path) -> dict[str, bytes]:
    """Inputs of every kind for the deed ``staging``."""
    source.mkdir()
    for name, size in SIZES.items():
        (source / name).write_bytes(sealed(size, name))
    for name, files in TREES.items():
        (source / name / "deep").mkdir(parents=True)
        for number in range(files):
            folder = source / name / ("deep" if number % 3 == 2 else ".")
            (folder / str(number)).write_bytes(sealed(500 + number, (name, number)))
        (source / name / "link").symlink_to("deep/2")
    return files_below(source)


@dataclass
class Place:
    """One test's folders. ``inputs`` is what the sources hold."""

    source: Path
    to: Path
    local: Path
    inputs: dict[str, bytes]

    @property
    def given(self) -> dict[str, Any]:
        """What the deed ``staging`` is given."""
        return {"source": str(self.source), "to": str(self.to), "local": self.local}

    def clear(self) -> None:
        """Begin anew: an empty destination and an empty local storage."""
        with self.entered() as root:
            overlay.unmount_below(root)
        for folder in (self.to, self.local):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def entered(self) -> Iterator[Path]:
        """This process uses the place's local storage for the time of a block."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(LOCAL, str(self.local))
            yield local_storage_path()

    def check_whole(self) -> None:
        """What has its final name is whole, at the destination and in the cache."""
        wanted = outputs_of(self.inputs)
        for name, content in self.published().items():
            assert content == wanted[name], f"{name} is not whole"
        assert files_below(self.source) == self.inputs
        self.check_cache()

    def check_cache(self) -> None:
        with self.entered() as root:
            for entry in root.glob("cache/files/*/*"):
                assert is_whole(entry.read_bytes()), f"{entry} is not whole"
            for tree in root.glob("cache/trees/*/*"):
                found = files_below(tree / "tree")
                name = next(name for name in TREES if len(found) == TREES[name] + 1)
                assert found == _without(self.inputs, name)

    def check_done(self) -> None:
        """All outputs are published, and nothing else."""
        assert self.published() == outputs_of(self.inputs)
        self.check_whole()

    def published(self) -> dict[str, bytes]:
        found = files_below(self.to)
        return {name: text for name, text in found.items() if PART not in name}

    def check_total(self, at_most: int) -> None:
        """The index knows of every entry, and what the cache holds is within its limit."""
        with self.entered() as root, HostCache() as cache:
            rows = {row.key: row.size for row in cache.rows()}
            entries = [
                path for kind in ("files", "trees") for path in root.glob(f"cache/{kind}/*/*")
            ]
            assert {path.name for path in entries} <= set(rows)
            sizes = [f.stat().st_size for path in entries for f in files_of(path)]
            assert sum(sizes) <= min(at_most, sum(rows.values()))

    def remains(self) -> set[str]:
        """What kinds of things the dead have left."""
        with self.entered() as root:
            found = {
                "mounts": overlay.mounts_below(root),
                "sandboxes": list(root.glob("sandboxes/*")),
                "partial": list(root.glob("cache/partial/*")),
                "parts": [p for p in self.to.rglob("*") if p.name.startswith(PART)],
            }
        return {kind for kind, things in found.items() if things}

    def check_nothing_left(self) -> None:
        """After cleaning, which this does, there is nothing of the dead anywhere."""
        with self.entered() as root:
            reclaim_leftovers()
            assert overlay.mounts_below(root) == []
            assert [p.name for p in root.glob("sandboxes/*")] == []
            assert [p.name for p in root.glob("cache/partial/*")] == []
            assert {p.name for p in root.iterdir()} <= {"cache", "sandboxes"}
        assert [p for p in self.to.rglob("*") if p.name.startswith(PART)] == []


def files_of(entry: Path) -> list[Path]:
    """The files of an entry of the cache."""
    found = [entry] if entry.is_file() else (entry / "tree").rglob("*")
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _without(inputs: dict[str, bytes], tree: str) -> dict[str, bytes]:
    return {
        os.path.relpath(name, tree): content
        for name, content in inputs.items()
        if name.startswith(f"{tree}/")
    }


def make_place(top: Path) -> Place:
    """A new place below ``top``."""
    source, to, local = top / "source", top / "to", top / "storage"
    to.mkdir()
    local.mkdir()
    return Place(source, to, local, make_sources(source))
