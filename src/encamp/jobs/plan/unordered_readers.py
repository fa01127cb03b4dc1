"""Checks before a run that no task reads files of another task without running after it.

What tasks publish and read is known from names or patterns before a run. A task that reads the
files of another without waiting for it would find them by chance: missing, incomplete, or left by
an earlier run. The same holds for files that a task publishes on failure.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from operator import attrgetter
from pathlib import Path

from encamp.errors import BadJob, InputError, printable
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.plan.graph import Graph
from encamp.jobs.steps import Task
from encamp.storage.disk.one_name import one_name
from encamp.storage.inputs.exclude import all_excluded
from encamp.storage.inputs.globs import escape, fixed_start, is_glob, may_meet, names_may_meet
from encamp.storage.inputs.mirror import Mirror, Planner, find
from encamp.storage.inputs.skipped_folders import split
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.possible_paths import (
    BELOW,
    Reach,
    names_below,
    read_at,
    read_by,
    symlinks_to,
)
from encamp.storage.urls import is_url

_OUTPUTS, _ON_FAILURE = attrgetter("outputs"), attrgetter("on_failure")


@dataclass(eq=False)
class _Writes:
    """The tasks that publish with one pattern into one folder."""

    reach: Reach
    output: Output
    failed: bool
    """Whether it is published when they fail."""
    tasks: dict[str, None] = field(default_factory=dict)
    in_place_tasks: set[str] = field(default_factory=set)
    """The tasks whose pattern may match their own inputs; unchanged inputs are not published."""

    @cached_property
    def other_tasks(self) -> list[str]:
        """The tasks that are not in-place tasks, once these are known."""
        return [task for task in self.tasks if task not in self.in_place_tasks]

    @property
    def by_pattern(self) -> bool:
        """Whether the names are known only when the files exist."""
        return any(is_glob(part) for part in self.reach.rest if part != BELOW)


class _Folder:
    """A folder of a destination: its outputs, and the folders below it."""

    def __init__(self, *, failed: bool) -> None:
        self._failed = failed
        self.folders: dict[str, _Folder] = {}
        self._writes: dict[tuple[str, ...], _Writes] = {}
        self._by_start: defaultdict[str, list[_Writes]] = defaultdict(list)
        self._named: dict[str, _Writes | tuple[Reach, Output, str]] = {}
        """Outputs with plain names, by name; most of them are never looked up."""

    @property
    def is_written(self) -> bool:
        """Whether anything is published here."""
        return bool(self._writes or self._named)

    def add(self, reach: Reach, output: Output, task: str) -> None:
        name = reach.rest[0]
        if len(reach.rest) == 2 and reach.rest[1] == BELOW and not is_glob(name):
            if name in self._named:
                self._of_name(name).tasks[task] = None
            else:
                self._named[name] = (reach, output, task)
            return
        writes = self._writes.get(reach.rest)
        if writes is None:
            writes = self._writes[reach.rest] = _Writes(reach, output, self._failed)
            self._by_start[_start(name)].append(writes)
        writes.tasks[task] = None

    def maybe(self, name: str) -> Iterator[_Writes]:
        """The outputs that may be published here under a name that a pattern matches."""
        start = _start(name)
        if is_glob(name):
            for one in self._named:
                if one.startswith(start):
                    yield self._of_name(one)
            for other, writes in self._by_start.items():
                if other.startswith(start) or start.startswith(other):
                    yield from writes
            return
        if start in self._named:
            yield self._of_name(start)
        for length in range(len(start) + 1):
            yield from self._by_start.get(start[:length], ())

    def _of_name(self, name: str) -> _Writes:
        writes = self._named[name]
        if isinstance(writes, tuple):
            reach, output, task = writes
            writes = self._named[name] = _Writes(reach, output, self._failed, {task: None})
        return writes


def _start(name: str) -> str:
    return "" if name == BELOW else fixed_start(name)


class _Published:
    """Everything that the tasks of a job may publish, on success or failure, by folder."""

    def __init__(
        self, job: JobDefinition, reach_of: Callable[[Output], Reach], *, failed: bool
    ) -> None:
        self._failed = failed
        self._top = _Folder(failed=failed)
        self._destination = Path(one_name(job.to)).parts
        self._near: dict[str, bool | _Folder] = {}
        for task in job.tasks.values():
            for output in task.on_failure if failed else task.outputs:
                reach = reach_of(output)
                self._folder(reach.start).add(reach, output, task.name)

    def _folder(self, names: tuple[str, ...]) -> _Folder:
        folder = self._top
        for name in names:
            below = folder.folders.get(name)
            if below is None:
                below = folder.folders[name] = _Folder(failed=self._failed)
            folder = below
        return folder

    def near(self, folder: str, name: str) -> bool:
        """Whether anything is published in a folder above a path, or below the path."""
        if folder not in self._near:
            self._near[folder] = self._near_folder(folder)
        found = self._near[folder]
        return found if isinstance(found, bool) else found.is_written or name in found.folders

    def _near_folder(self, path: str) -> bool | _Folder:
        """The folder of a path; the path itself if that is unknown."""
        folder = self._top
        for name in Path(path).parts:
            if folder.is_written:
                return True
            if name not in folder.folders:
                return False
            folder = folder.folders[name]
        return folder

    def read(self, by: Reach) -> Iterator[_Writes]:
        """The outputs that a pattern may read; in the destination only if it begins with that."""
        depth = len(self._destination)
        named = by.start[:depth] == self._destination
        yield from self._read(self._top, (), by.whole, None if named else self._destination)

    def _read(
        self,
        folder: _Folder,
        above: tuple[str, ...],
        names: tuple[str, ...],
        hidden: tuple[str, ...] | None,
    ) -> Iterator[_Writes]:
        if above == hidden or not names:
            return
        for writes in folder.maybe(names[0]):
            if may_meet(writes.reach.rest, names):
                yield writes
        if names[0] != BELOW:
            for one in _matching(folder.folders, names[0]):
                yield from self._read(folder.folders[one], (*above, one), names[1:], hidden)
            return
        if len(names) > 1:
            yield from self._read(folder, above, names[1:], hidden)
        for one, below in folder.folders.items():
            yield from self._read(below, (*above, one), names, hidden)


def _matching(folders: dict[str, _Folder], name: str) -> list[str]:
    if not is_glob(name):
        return [name] if name in folders else []
    return [one for one in folders if names_may_meet(escape(one), name)]


_Met = tuple[Reach, _Writes]
"""A path or pattern that is read, and the outputs that may be published there."""


@dataclass(frozen=True)
class _ReadingTask:
    """A task with a mirror that may read outputs of tasks."""

    task: Task
    mirror: Mirror
    read: Reach
    writes: _Writes

    @property
    def own(self) -> bool:
        return self.task.name in self.writes.tasks

    @property
    def is_in_place(self) -> bool:
        """Whether the task only reads files that its own output pattern may match as well."""
        tree = len(self.read.rest) == 1 and Path(*self.read.start).is_dir()
        return self.own and self.writes.by_pattern and not tree and not self.writes.failed


class _Check:
    def __init__(
        self,
        job: JobDefinition,
        graph: Graph,
        planner: Planner,
        reach_of: Callable[[Output], Reach],
    ) -> None:
        self._job, self._graph, self._planner = job, graph, planner
        self._published = [_Published(job, reach_of, failed=False)]
        if any(map(_ON_FAILURE, job.tasks.values())):
            self._published.append(_Published(job, reach_of, failed=True))
        self._base = str(job.base)
        self._to = Path(one_name(job.to))
        self._way = lru_cache(maxsize=1024)(_way_to)
        self._found = lru_cache(maxsize=1024)(partial(find, literal=True))
        self._task = ""
        self._before: set[str] = set()

    def run(self) -> set[str]:
        met = lru_cache(maxsize=1024)(self._met_by)  # local, so that all of it is freed at once
        for mirror in self._job.mirror:
            for _, writes in self._read(mirror, met):
                raise BadJob(f"the job's {_described(mirror)}", _for_all(writes))
        hits = [
            _ReadingTask(task, mirror, read, writes)
            for task in self._job.tasks.values()
            for mirror in task.mirror
            for read, writes in self._read(mirror, met)
        ]
        for hit in hits:
            if hit.is_in_place:
                hit.writes.in_place_tasks.add(hit.task.name)
        for hit in hits:
            self._check(hit)
        return {hit.task.name for hit in hits if hit.is_in_place}

    def _read(self, mirror: Mirror, met: Callable[[Mirror], list[_Met]]) -> Iterator[_Met]:
        """The outputs of tasks that a pattern may read, also through existing symlinks."""
        pattern = mirror.pattern
        plain = not (is_glob(pattern) or is_url(pattern) or pattern[:1] in ("", "~", "."))
        path = pattern if pattern.startswith("/") else f"{self._base}/{pattern}"
        if plain and "/." not in pattern and not self._near(path):
            return
        yield from met(mirror)

    def _met_by(self, mirror: Mirror) -> list[_Met]:
        matches = [] if is_url(mirror.pattern) else self._matches(mirror)
        reaches = [(read, mirror.exclude) for read in self._reaches(mirror, matches)]
        reaches += [(read, ()) for read in self._by_symlinks(mirror, matches)]
        return [
            (read, writes)
            for read, exclude in reaches
            for published in self._published
            for writes in published.read(read)
            if not all_excluded(names_below(writes.reach, read), exclude)
        ]

    def _matches(self, mirror: Mirror) -> list[Path]:
        """The symlinks and folders that a pattern matches now; ``**`` matches no folders."""
        found = self._found(mirror.pattern, self._job.base)
        skipped = self._planner.skipped(mirror)
        matches = [path for path in found if not (_is_plain(str(path)) or skipped.holds(path))]
        deep = BELOW in split(mirror.pattern, self._job.base)[1]
        return [path for path in matches if not path.is_dir()] if deep else matches

    def _near(self, path: str) -> bool:
        """Whether anything is published near a file; called for a million files."""
        folder, _, name = path.rstrip("/").rpartition("/")
        real, links = self._way(folder)
        if self._is_near(real, name) or not _is_plain(path):
            return True
        return any(self._is_near(str(link.parent), link.name) for link in links)

    def _is_near(self, folder: str, name: str) -> bool:
        return any(one.near(folder, name) for one in self._published)

    def _reaches(self, mirror: Mirror, matches: list[Path]) -> Iterator[Reach]:
        """The outputs that a pattern may read by its names, also through existing symlinks."""
        yield read_by(mirror, self._job.base)
        if is_url(mirror.pattern):
            return
        start, rest = split(mirror.pattern, self._job.base)
        for depth in range(1, len(rest)):
            if rest[depth - 1] != BELOW:
                yield from self._below_folders(start, rest[:depth], rest[depth:])
        yield from (read_at(path) for path in matches if rest and self._is_elsewhere(path))

    def _is_elsewhere(self, path: Path) -> bool:
        """Whether a match is a symlink, or a mount point."""
        above, _ = self._way(str(path.parent))
        return path.is_symlink() or one_name(path) != os.path.join(above, path.name)  # noqa: PTH118

    def _below_folders(
        self, start: Path, above: tuple[str, ...], names: tuple[str, ...]
    ) -> Iterator[Reach]:
        """The real paths of a pattern that goes through symlinks or mounted folders."""
        below = () if BELOW in names else (BELOW,)
        hidden = not Path(one_name(start)).is_relative_to(self._to)
        for folder in self._found(f"{escape(str(start))}/{'/'.join(above)}", start):
            real = Path(one_name(folder))
            if self._is_elsewhere(folder) and not (hidden and real.is_relative_to(self._to)):
                yield Reach(real.parts, (*names, *below))

    def _by_symlinks(self, mirror: Mirror, matches: list[Path]) -> Iterator[Reach]:
        """The symlinks in the paths that are read, and what is read through symlinks in trees."""
        if is_url(mirror.pattern):
            return
        start, _ = split(mirror.pattern, self._job.base)
        targets = [target for path in matches for target in self._leads_to(path, mirror)]
        yield from map(read_at, targets)
        folders = {path.parent for path in self._found(mirror.pattern, self._job.base)}
        for path in {start, *matches, *targets, *folders}:
            yield from (Reach(link.parts, ()) for link in self._way(str(path))[1])

    def _leads_to(self, path: Path, mirror: Mirror) -> list[Path]:
        """The targets of symlinks that lead out of a tree."""
        with suppress(OSError, InputError):  # reported when the task runs
            return list(map(Path, self._planner.leads_to(path, mirror) if path.is_dir() else ()))
        return []

    def _check(self, hit: _ReadingTask) -> None:
        """Raise `BadJob` if a task reads its own outputs, or those of a task that may run later."""
        name, writes = hit.task.name, hit.writes
        is_in_place = name in writes.in_place_tasks
        if hit.own and not is_in_place:
            of_own = _of_own_failure if writes.failed else _of_itself
            raise BadJob(f"task {name}", of_own(hit.mirror, writes))
        for other in writes.other_tasks if is_in_place else writes.tasks:
            if other != name and not self._after(name, other):
                why = _of_another(hit.mirror, other, writes, self._after(other, name))
                raise BadJob(f"task {name}", why)

    def _after(self, task: str, other: str) -> bool:
        """Whether a task runs after another, directly or indirectly."""
        if task != self._task:
            self._task, self._before = task, set(self._graph.before[task])
        if other in self._before:
            return True
        self._before |= self._graph.all_before(task)
        return other in self._before


def _is_plain(path: str) -> bool:
    """Whether a path is a regular file, or does not exist."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return True


def _way_to(path: str) -> tuple[str, list[Path]]:
    """The real path, and the symlinks in the path."""
    return one_name(path), list(symlinks_to(Path(path)))


def check_readers(
    job: JobDefinition, graph: Graph, planner: Planner, reach_of: Callable[[Output], Reach]
) -> set[str]:
    """Raise `BadJob` if a task reads files of another task without running after it.

    ``reach_of`` returns where an output may lead.
    Returns the *in-place tasks*: their output patterns may match their own inputs, such as a task
    that reads ``data/*.csv`` and publishes ``*.csv`` to ``data``.
    """
    tasks = job.tasks.values()
    if any(map(_OUTPUTS, tasks)) or any(map(_ON_FAILURE, tasks)):
        return _Check(job, graph, planner, reach_of).run()
    return set()


def _described(mirror: Mirror) -> str:
    return f"mirror {printable(mirror.pattern)!r}"


def _publishes(task: str, writes: _Writes) -> str:
    made = f"task {task} leaves when it fails" if writes.failed else f"task {task} publishes"
    return f"{made} ({_output(writes)})"


def _output(writes: _Writes) -> str:
    output = writes.output
    place = "" if output.to in (".", "") else f" in {printable(output.to)}"
    return f"{printable(output.rename or output.pattern)!r}{place}"


def _for_all(writes: _Writes) -> str:
    first = next(iter(writes.tasks))
    return (
        f"reads what {_publishes(first, writes)}, but job inputs must "
        f"exist before any task runs; exclude it, or use outputs_of({first!r}) in the tasks that "
        "need it"
    )


_SEPARATE = "publish to a different folder or name, or exclude it from the mirror"


def _of_own_failure(mirror: Mirror, writes: _Writes) -> str:
    return (
        f"its {_described(mirror)} reads what it leaves when it fails ({_output(writes)}), "
        f"so its next run would not have the same inputs; {_SEPARATE}"
    )


def _of_itself(mirror: Mirror, writes: _Writes) -> str:
    return (
        f"its {_described(mirror)} reads what it publishes itself ({_output(writes)}), so it would "
        f"never be up to date; {_SEPARATE}"
    )


def _of_another(mirror: Mirror, maker: str, writes: _Writes, later: bool) -> str:
    reads = f"its {_described(mirror)} reads what {_publishes(maker, writes)}"
    if later:
        return f"{reads}, which runs later; {_SEPARATE}"
    if writes.failed:
        return f"{reads}, but the task does not run after that one; {_SEPARATE}"
    return (
        f"{reads}, but the task does not run after that one; use outputs_of({maker!r}), "
        f"add after={maker!r}, or publish to a different folder"
    )
