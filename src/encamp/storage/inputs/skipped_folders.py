"""Folders that a pattern does not search unless it begins with their path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from encamp.storage.disk.temporary_names import PART
from encamp.storage.inputs.globs import escape, is_glob
from encamp.storage.real_paths import real_folder


class SkippedFolders(msgspec.Struct, frozen=True):
    """The folders that one pattern does not search, by real paths; ``start`` is its beginning."""

    start: Path
    folders: tuple[Path, ...]
    all: tuple[Path, ...]

    @staticmethod
    def of(pattern: str, base: Path, left_out: tuple[Path, ...]) -> SkippedFolders:
        """The folders of ``left_out`` that a pattern does not begin with."""
        if not left_out:
            return _NOTHING
        start, _ = split(pattern, base)
        real = Path(os.path.realpath(start))
        skipped = tuple(folder for folder in left_out if not real.is_relative_to(folder))
        return SkippedFolders(start, skipped, left_out)

    def holds(self, path: Path) -> bool:
        """Whether a match is in a skipped folder; a symlink's own path counts, not its target."""
        if not self.folders or path == self.start:
            return False
        above, name = os.path.split(path)
        real = os.path.join(real_folder(above), name, "")  # noqa: PTH118 - of a million files
        return any(real.startswith(os.path.join(folder, "")) for folder in self.folders)  # noqa: PTH118

    def below(self, tree: Path) -> Iterator[str]:
        """Patterns that exclude skipped folders and temporary files from a tree."""
        real = Path(os.path.realpath(tree))
        for folder in self.folders:
            if folder.is_relative_to(real):
                yield f"/{escape(str(folder.relative_to(real)))}"
        if any(f.is_relative_to(real) or real.is_relative_to(f) for f in self.all):
            yield f"{PART}*"


_NOTHING = SkippedFolders(Path("/"), (), ())


def split(pattern: str, base: Path) -> tuple[Path, tuple[str, ...]]:
    """Split a pattern into the path that all its matches begin with, and the remaining names."""
    whole = Path(os.path.abspath(base / os.path.expanduser(pattern)))
    if os.path.lexists(whole):
        return whole, ()
    parts = whole.parts
    fixed = next((n for n, part in enumerate(parts) if is_glob(part)), len(parts))
    return Path(*parts[:fixed]), parts[fixed:]
