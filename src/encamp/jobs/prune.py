"""Removing orphans: files that a job has published but that none of its tasks makes any more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from encamp.errors import BadDestination
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.jobs.plan.orphans import Orphan, elsewhere, former_folders, orphans
from encamp.storage import urls
from encamp.storage.disk.path_to_destination import Trust, opened, trust_in
from encamp.storage.outputs.publish import flush_folders
from encamp.storage.outputs.still_intact import intact
from encamp.storage.urls import is_url


@dataclass(frozen=True)
class Pruned:
    """The result of pruning: orphans that were removed, or kept because they have changed.

    ``elsewhere`` are those that are not below the destination, ``stayed`` those that could not be
    removed, and why.
    """

    removed: list[str]
    kept: list[str]
    folders: list[str]
    elsewhere: list[str]
    stayed: dict[str, str]


def prune(journal: Journal, to: Path, others: Iterable[str], *, dry_run: bool) -> Pruned:
    """Remove the unchanged orphans, and folders below ``to`` that this leaves empty.

    ``others`` are files of other jobs there, which stay. The journal must be open for writing,
    unless this is a dry run.
    """
    found = {path: orphan for path, orphan in orphans(journal).items() if not orphan.gone}
    files = _Remover(to, journal.own_folder.shared)
    bare = former_folders(journal).items()
    empty = {path for path, one in bare if files.unchanged(one) and not Path(path).is_symlink()}
    for path in others:
        found.pop(path, None)
        empty.discard(path)
    unchanged = {path: orphan for path, orphan in found.items() if files.unchanged(orphan)}
    kept = sorted(found.keys() - unchanged.keys())
    stayed = {} if dry_run else _removed(unchanged, files)
    removed = sorted(unchanged.keys() - stayed.keys())
    folders = _emptied(removed, empty, to)
    if not dry_run:
        folders = [folder for folder in folders if not _removed([folder], files, are_folders=True)]
        flush_folders(_still_there((*removed, *folders)))
        _forget(journal, (*kept, *stayed))
    return Pruned(removed, kept, folders, elsewhere(journal), stayed)


def _removed(paths: Iterable[str], files: _Remover, *, are_folders: bool = False) -> dict[str, str]:
    """Remove files, or empty folders; returns those that could not be removed, and why."""
    stayed = {}
    for path in paths:
        try:
            if is_url(path):
                urls.remove(path)
            else:
                files.remove(path, is_folder=are_folders)
        except BadDestination as exc:
            stayed[path] = exc.why
        except OSError as exc:
            stayed[path] = (exc.strerror or str(exc)).lower()
    return stayed


class _Remover:
    """Checks and removes files below a destination, following no links of other users."""

    def __init__(self, to: Path, shared: bool) -> None:
        self._depth = len(Path(os.path.realpath(to)).parts)
        self._named = trust_in(to, shared=shared)

    def unchanged(self, orphan: Orphan) -> bool:
        """Whether it is as the task left it."""
        trust = self._trust(Path(orphan.path))
        return orphan.published is not None and intact(orphan.published, trust)

    def remove(self, path: str, *, is_folder: bool = False) -> None:
        """Remove a file, or an empty folder, if it exists. Raises `BadDestination` or OSError."""
        above, name = os.path.split(path)
        with opened(Path(above), self._trust(Path(path))) as folder:
            if is_folder:
                os.rmdir(name, dir_fd=folder)
                return
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)

    def _trust(self, path: Path) -> Trust:
        return self._named.below(max(0, len(path.parts) - 1 - self._depth))


def _forget(journal: Journal, kept: Iterable[str]) -> None:
    """Record which files are no longer orphans because they were removed."""
    rest = set(kept)
    gone: dict[str, list[str]] = {}
    folders = {path: one for path, one in former_folders(journal).items() if one.gone}
    for path, orphan in {**orphans(journal), **folders}.items():
        if path not in rest:
            gone.setdefault(orphan.task, []).append(path)
    now = time.time()
    journal.write(*(Record("pruned", task, now, paths=paths) for task, paths in gone.items()))


def _emptied(removed: Iterable[str], empty: set[str], to: Path) -> list[str]:
    """The folders below ``to`` that no longer contain anything, the deepest first."""
    top = os.path.realpath(to)
    gone = {path for path in removed if not is_url(path)}
    above = {str(folder) for path in (gone | empty) for folder in Path(path).parents}
    folders = sorted((f for f in above | empty if f.startswith(f"{top}/")), key=len, reverse=True)
    emptied = []
    for folder in folders:
        with suppress(OSError):  # a folder that cannot be listed stays
            if all(f"{folder}/{name}" in gone for name in os.listdir(folder)):
                gone.add(folder)
                emptied.append(folder)
    return emptied


def _still_there(paths: Iterable[str]) -> set[Path]:
    """The folders of files, or their nearest existing parents, to be flushed."""
    parents = {Path(path).parent for path in paths if not is_url(path)}
    return {next(f for f in (folder, *folder.parents) if f.is_dir()) for folder in parents}
