"""Orphans: files that a job has published but that none of its tasks makes any more.

A task was removed from the job, or its outputs were renamed. Its files stay, since somebody may
need them. encamp warns about tasks that read them by a pattern, and `prune` removes them on
request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from encamp.attempt_facts import Published
from encamp.errors import BadDestination, InputError, printable
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.lines import Record
from encamp.jobs.steps import Task
from encamp.reports import MOST_COUNTED
from encamp.storage import urls
from encamp.storage.disk.safe_destination import Trust, opened, trust_in
from encamp.storage.inputs.exclude import path_excluded
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.possible_paths import may_make
from encamp.storage.inputs.tree import tree_state
from encamp.storage.outputs.publish import flush_folders, intact
from encamp.storage.shared_folders import local
from encamp.storage.urls import is_url, url_parts

_NAMED = 5
"""How many orphans a warning names."""


@dataclass(frozen=True)
class Orphan:
    """A file, its former task, and its published state; None if unknown."""

    path: str
    task: str
    published: Published | None

    @property
    def gone(self) -> bool:
        """Whether it was removed meanwhile."""
        if is_url(self.path):
            return urls.size_of(self.path) is None
        try:
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # in a folder that cannot be entered now
            return False
        return False

    @property
    def is_folder(self) -> bool:
        """Whether it was published as an empty folder."""
        return self.published is not None and self.published.kind == "folder"


def orphans(journal: Journal) -> dict[str, Orphan]:
    """The orphans by their paths, whether or not they still exist; folders do not count.

    A task of the job that is not done has no orphans, since it is unknown what it makes.
    """
    if not (journal.earlier or journal.left):
        return {}
    return _not_made(journal, (one for one in _published_before(journal) if not one.is_folder))


def count_of(found: Iterable[str]) -> int:
    """How many orphans still exist; 1001 if there are more than 1000. URLs are not opened."""
    there = (path for path in found if is_url(path) or os.path.lexists(path))
    return sum(1 for _ in islice(there, MOST_COUNTED + 1))


def _folders(journal: Journal) -> dict[str, Orphan]:
    """The folders that were published empty, and belong to no task any more."""
    return _not_made(journal, (one for one in _published_before(journal) if one.is_folder))


def elsewhere(journal: Journal) -> list[str]:
    """Orphans according to the journal that may not be touched, by path; URLs are not opened."""
    others = (one for one in _told_of(journal) if not journal.may_have_published(one.path))
    found = _not_made(journal, (one for one in others if not one.is_folder))
    return sorted(path for path in found if is_url(path) or os.path.lexists(path))


def _not_made(journal: Journal, candidates: Iterable[Orphan]) -> dict[str, Orphan]:
    found = {orphan.path: orphan for orphan in candidates}
    for task in journal.current() if found else ():
        for output in journal.done.outputs(task):
            found.pop(output.path, None)
    for task, files in journal.earlier.items() if found else ():
        if task not in journal.left and task not in journal.done:
            for path in files:
                found.pop(path, None)
    return found


def _published_before(journal: Journal) -> Iterator[Orphan]:
    """The former outputs of tasks, as far as the journal is accepted."""
    return (one for one in _told_of(journal) if journal.may_have_published(one.path))


def _told_of(journal: Journal) -> Iterator[Orphan]:
    for task, files in journal.earlier.items():
        left = task in journal.left
        if left or task in journal.done:
            kept = set() if left else journal.rescued.get(task, set())
            yield from (Orphan(path, task, was) for path, was in files.items() if path not in kept)
    for task in journal.left:
        for output in journal.done.outputs(task):
            if not output.kept:
                yield Orphan(output.path, task, output)


class OrphanWatch:
    """Looks for orphans among the inputs of tasks during a run, which changes the orphans."""

    def __init__(self, journal: Journal, to: Path) -> None:
        self.warnings: list[str] = []
        """The warnings, one sentence for each task that reads orphans."""
        self._journal, self._to = journal, to
        self._orphans = orphans(journal)

    @property
    def has_any(self) -> bool:
        """Whether there are any orphans."""
        return bool(self._orphans)

    @property
    def count(self) -> int:
        """How many there are, see `count_of`."""
        return count_of(self._orphans) if self._orphans else 0

    def note(self, task: str, makers: Mapping[str, str]) -> None:
        """Record as orphans the former outputs that a finished task has not made again.

        ``makers`` tells which other task makes a path.
        """
        earlier = self._journal.earlier.get(task)
        if self._orphans:
            for output in self._journal.done.outputs(task):
                self._orphans.pop(output.path, None)
        if earlier is None:
            return
        rescued = self._journal.rescued.get(task, set())
        for path, published in earlier.items():
            orphan = Orphan(path, task, published)
            if path not in rescued and makers.get(path, task) == task and not orphan.is_folder:
                self._orphans[path] = orphan

    def foresee(self, task: Task) -> None:
        """Record as orphans the former outputs that a task cannot make again when it runs."""
        for output in self._journal.done.outputs(task.name):
            orphan = Orphan(output.path, task.name, output)
            made_again = any(may_make(one, output.path, self._to) for one in task.outputs)
            ours = self._journal.may_have_published(output.path)
            if ours and not output.kept and not made_again and not orphan.is_folder:
                self._orphans[output.path] = orphan

    def look(self, who: str, items: Iterable[Item]) -> None:
        """Add a warning if there are orphans among the inputs of ``who``."""
        if not self._orphans:
            return
        read = sorted({path for item in items for path in self._in(item)})
        if not read:
            return
        files = "a file" if len(read) == 1 else f"{len(read)} files"
        names = ", ".join(printable(self._name(path)) for path in read[:_NAMED])
        more = f" and {len(read) - _NAMED} more" if len(read) > _NAMED else ""
        self.warnings.append(
            f"{printable(who)} reads {files} that no task of the job makes any more: "
            f"{names}{more}; to read only files that tasks make, use outputs_of; "
            f"to remove the others: encamp prune {printable(self._to)}"
        )

    def _name(self, path: str) -> str:
        return path if is_url(path) else os.path.relpath(path, self._to)

    def _in(self, item: Item) -> Iterator[str]:
        if item.url is not None:
            parts = url_parts(item.url)
            yield from (one for one in self._orphans if is_url(one) and url_parts(one) == parts)
            return
        top = os.path.realpath(local(item.source))
        if item.kind == "file":
            yield from (path for path in (top,) if path in self._orphans)
            return
        with suppress(OSError, InputError):  # reported when the task runs
            for goal in tree_state(Path(top), item.exclude).leads_to:
                yield from self._at(os.path.realpath(goal))
        for path in self._orphans:
            inner = path.removeprefix(f"{top}/")
            if (
                inner != path
                and not path_excluded(PurePosixPath(inner), item.exclude)
                and os.path.lexists(path)
            ):
                yield path

    def _at(self, place: str) -> Iterator[str]:
        """The orphans at a path, or below it."""
        return (path for path in self._orphans if path == place or path.startswith(f"{place}/"))


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
    bare = _folders(journal).items()
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
    folders = {path: one for path, one in _folders(journal).items() if one.gone}
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
