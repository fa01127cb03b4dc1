"""No task reads what another one publishes without coming after it.

What tasks publish is known before anything runs, by name or by pattern, and so is what they read.
A task that reads what another makes, and does not wait for it, would work on what is there by
chance: nothing, half of it, or what an earlier run has left.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path

from encamp.errors import BadJob, printable
from encamp.jobs.graph import Graph
from encamp.jobs.job import Job
from encamp.jobs.steps import Task
from encamp.storage.globs import escape, fixed_start, is_glob, may_meet, names_may_meet
from encamp.storage.mirror import Mirror, find
from encamp.storage.outputs import Output
from encamp.storage.reach import (
    BELOW,
    Reach,
    folders_below,
    left_out,
    published_by,
    read_at,
    read_by,
)
from encamp.storage.remote import is_url


@dataclass(eq=False)
class _Writes:
    """The tasks that publish by one pattern into one folder."""

    reach: Reach
    output: Output
    tasks: dict[str, None] = field(default_factory=dict)
    sweepers: set[str] = field(default_factory=set)
    """Those whose pattern may match their own inputs, which unchanged are no outputs."""

    @cached_property
    def no_sweepers(self) -> list[str]:
        """The other tasks, once all sweepers are known."""
        return [task for task in self.tasks if task not in self.sweepers]

    @property
    def by_pattern(self) -> bool:
        """Whether the names are known only when they are there."""
        return any(is_glob(part) for part in self.reach.rest if part != BELOW)


class _Folder:
    """What is published into one folder, and the folders below it."""

    def __init__(self) -> None:
        self.folders: dict[str, _Folder] = {}
        self._writes: dict[tuple[str, ...], _Writes] = {}
        self._by_start: defaultdict[str, list[_Writes]] = defaultdict(list)
        self._named: dict[str, _Writes | tuple[Reach, Output, str]] = {}
        """What has a name without a pattern: of most tasks nobody asks what they write."""

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
            writes = self._writes[reach.rest] = _Writes(reach, output)
            self._by_start[_start(name)].append(writes)
        writes.tasks[task] = None

    def maybe(self, name: str) -> Iterator[_Writes]:
        """What may be published here as something that a pattern for a name matches."""
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
            writes = self._named[name] = _Writes(reach, output, {task: None})
        return writes


def _start(name: str) -> str:
    return "" if name == BELOW else fixed_start(name)


class _Published:
    """All that the tasks of a job may publish, by folders."""

    def __init__(self, job: Job) -> None:
        self._top = _Folder()
        self._destination = Path(os.path.realpath(job.to)).parts
        self._near: dict[str, bool | _Folder] = {}
        folder = folders_below(job.to)
        for task in job.tasks.values():
            for output in task.outputs:
                reach = published_by(output, folder)
                self._folder(reach.start).add(reach, output, task.name)

    def _folder(self, names: tuple[str, ...]) -> _Folder:
        folder = self._top
        for name in names:
            below = folder.folders.get(name)
            if below is None:
                below = folder.folders[name] = _Folder()
            folder = below
        return folder

    def near(self, folder: str, name: str) -> bool:
        """Whether anything is published in a folder above a path, or below it."""
        if folder not in self._near:
            self._near[folder] = self._near_folder(folder)
        found = self._near[folder]
        return found if isinstance(found, bool) else found.is_written or name in found.folders

    def _near_folder(self, path: str) -> bool | _Folder:
        """The folder itself if that does not tell."""
        folder = self._top
        for name in Path(path).parts:
            if folder.is_written:
                return True
            if name not in folder.folders:
                return False
            folder = folder.folders[name]
        return folder

    def read(self, by: Reach) -> Iterator[_Writes]:
        """What a pattern may read; of the destination only if the pattern begins with it."""
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


@dataclass(frozen=True)
class _Hit:
    """A task whose mirror may read what tasks publish."""

    task: Task
    mirror: Mirror
    read: Reach
    writes: _Writes

    @property
    def own(self) -> bool:
        return self.task.name in self.writes.tasks

    @property
    def sweeps(self) -> bool:
        """Whether it is but the task's own inputs that its output pattern may match as well."""
        tree = len(self.read.rest) == 1 and Path(*self.read.start).is_dir()
        return self.own and self.writes.by_pattern and not tree


class _Check:
    def __init__(self, job: Job, graph: Graph) -> None:
        self._job, self._graph = job, graph
        self._published = _Published(job)
        self._base = str(job.base)
        self._real = lru_cache(maxsize=1024)(os.path.realpath)
        self._found = lru_cache(maxsize=1024)(partial(find, literal=True))
        self._task = ""
        self._before: set[str] = set()

    def run(self) -> set[str]:
        for mirror in self._job.mirror:
            for _, writes in self._read(mirror):
                raise BadJob(f"the job's {_said(mirror)}", _for_all(writes))
        hits = [
            _Hit(task, mirror, read, writes)
            for task in self._job.tasks.values()
            for mirror in task.mirror
            for read, writes in self._read(mirror)
        ]
        for hit in hits:
            if hit.sweeps:
                hit.writes.sweepers.add(hit.task.name)
        for hit in hits:
            self._check(hit)
        return {hit.task.name for hit in hits if hit.sweeps}

    def _read(self, mirror: Mirror) -> Iterator[tuple[Reach, _Writes]]:
        """What a pattern may read of what tasks publish; also through symlinks that are there."""
        pattern = mirror.pattern
        plain = not (is_glob(pattern) or is_url(pattern) or pattern[:1] in ("", "~", "."))
        path = pattern if pattern.startswith("/") else f"{self._base}/{pattern}"
        if plain and "/." not in pattern and not self._near(path):
            return
        for read in self._reaches(mirror):
            for writes in self._published.read(read):
                if not left_out(writes.reach, read, mirror.exclude):
                    yield read, writes

    def _near(self, path: str) -> bool:
        """Whether anything is published near a file; jobs of a million files ask."""
        folder, _, name = path.rstrip("/").rpartition("/")
        return self._published.near(self._real(folder), name) or os.path.islink(path)  # noqa: PTH114

    def _reaches(self, mirror: Mirror) -> Iterator[Reach]:
        base = self._job.base
        reach = read_by(mirror, base)
        yield reach
        if len(reach.rest) > 1 and not is_url(mirror.pattern):
            for path in self._found(mirror.pattern, base):
                if path.is_symlink():
                    yield read_at(path)

    def _check(self, hit: _Hit) -> None:
        """Raise `BadJob` if a task reads what it makes itself, or does not come after."""
        name, writes = hit.task.name, hit.writes
        sweeps = name in writes.sweepers
        if hit.own and not sweeps:
            raise BadJob(f"task {name}", _of_itself(hit.mirror, writes))
        for other in writes.no_sweepers if sweeps else writes.tasks:
            if other != name and not self._after(name, other):
                why = _of_another(hit.mirror, other, writes, self._after(other, name))
                raise BadJob(f"task {name}", why)

    def _after(self, task: str, other: str) -> bool:
        """Whether a task comes after another, if only by way of others."""
        if task != self._task:
            self._task, self._before = task, set(self._graph.before[task])
        if other in self._before:
            return True
        self._before |= self._graph.all_before(task)
        return other in self._before


def check_readers(job: Job, graph: Graph) -> set[str]:
    """Raise `BadJob` for a task that reads what a task publishes that does not come before it.

    Returns the tasks whose output patterns may match their own inputs, as those in ``data/*.csv``
    that go back to ``data``.
    """
    if any(task.outputs for task in job.tasks.values()):
        return _Check(job, graph).run()
    return set()


def _said(mirror: Mirror) -> str:
    return f"mirror {printable(mirror.pattern)!r}"


def _output(writes: _Writes) -> str:
    output = writes.output
    place = "" if output.to in (".", "") else f" in {printable(output.to)}"
    return f"{printable(output.rename or output.pattern)!r}{place}"


def _for_all(writes: _Writes) -> str:
    first = next(iter(writes.tasks))
    return (
        f"reads what task {first} publishes ({_output(writes)}), but job inputs are "
        "there before any task has run; leave it out (exclude), or have the tasks that need it "
        f"take it by outputs_of({first!r})"
    )


def _of_itself(mirror: Mirror, writes: _Writes) -> str:
    return (
        f"its {_said(mirror)} reads what it publishes itself ({_output(writes)}), so it would "
        "never be up to date; publish to another folder or name, "
        "or leave it out of the mirror (exclude)"
    )


def _of_another(mirror: Mirror, maker: str, writes: _Writes, later: bool) -> str:
    reads = f"its {_said(mirror)} reads what task {maker} publishes ({_output(writes)})"
    if later:
        return (
            f"{reads}, which comes after it; publish to another folder or name, "
            "or leave it out of the mirror (exclude)"
        )
    return (
        f"{reads}, but does not come after it; take it by outputs_of({maker!r}), "
        f"add after={maker!r}, or publish to another folder"
    )
