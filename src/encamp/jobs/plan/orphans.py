"""Orphans: files that a job has published but that none of its tasks makes any more.

A task was removed from the job, or its outputs were renamed. Its files stay, because they may still
be needed. encamp warns about tasks that read them by a pattern, and `encamp.jobs.prune` removes
them on request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from encamp.attempt_facts import Published
from encamp.errors import InputError, printable
from encamp.jobs.journal.journal import Journal
from encamp.jobs.steps import Task
from encamp.reports import MOST_COUNTED
from encamp.storage import urls
from encamp.storage.inputs.exclude import path_excluded
from encamp.storage.inputs.mirror import Item
from encamp.storage.inputs.tree import tree_state
from encamp.storage.outputs.possible_paths import may_make
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
        """Whether it was removed in the meantime."""
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


def former_folders(journal: Journal) -> dict[str, Orphan]:
    """The folders that were published empty, and belong to no task any more."""
    return _not_made(journal, (one for one in _published_before(journal) if one.is_folder))


def elsewhere(journal: Journal) -> list[str]:
    """Orphans according to the journal that may not be touched, by path; URLs are not opened."""
    others = (one for one in _recorded(journal) if not journal.may_have_published(one.path))
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
    return (one for one in _recorded(journal) if journal.may_have_published(one.path))


def _recorded(journal: Journal) -> Iterator[Orphan]:
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

        ``makers`` returns which other task makes a path.
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
            for target in tree_state(Path(top), item.exclude).leads_to:
                yield from self._at(os.path.realpath(target))
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
