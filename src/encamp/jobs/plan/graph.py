"""The order of tasks: each runs after the tasks that it waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from itertools import chain, filterfalse

from encamp.errors import BadJob
from encamp.jobs.outputs_of import OutputsOf
from encamp.jobs.steps import Task
from encamp.storage.inputs.globs import is_glob


class Dependencies(dict[str, list[str]]):
    """Task → the tasks that it waits for; tasks that wait for none have no entry."""

    def __missing__(self, _task: str) -> list[str]:
        return []


class Graph:
    """The order of a job's tasks: returns tasks that are ready, and records which have ended.

    Raises `BadJob` for an ``after`` that names no task, and for tasks that wait for each other.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.before = Dependencies()
        """The tasks that each task waits for."""
        for name, task in tasks.items():
            if task.after or task.takes:
                self.before[name] = _predecessors(task, tasks)
        self._tasks, self._left = tasks, len(tasks)
        self._related = set(chain(self.before, *self.before.values()))
        """Tasks with an order; the sorter has no others: most of a million tasks have none."""
        self._chosen: Collection[str] | None = None
        self._free_given = False
        self._sorter: TopologicalSorter[str] = TopologicalSorter(self.before)
        try:
            self._sorter.prepare()
        except CycleError as exc:
            circle = " → ".join(exc.args[1])
            raise BadJob(f"the tasks {circle}", "wait for each other") from None

    def choose(self, tasks: Collection[str]) -> None:
        """Return only these tasks from now on; they include all that they wait for."""
        self._chosen, self._left = frozenset(tasks), len(tasks)

    def ready(self) -> Iterable[str]:
        """Names of tasks that no longer wait, each returned once."""
        ready: Iterable[str] = self._sorter.get_ready()
        if not self._free_given:
            self._free_given = True
            waiting = self._related.difference(ready)
            ready = filterfalse(waiting.__contains__, self._tasks)
        return ready if self._chosen is None else filter(self._chosen.__contains__, ready)

    def ended(self, name: str) -> None:
        """Record that the task has ended, in any state."""
        self._left -= 1
        if name in self._related:
            self._sorter.done(name)

    def all_before(self, name: str) -> set[str]:
        """All tasks that a task waits for, directly or indirectly."""
        found: set[str] = set()
        pending = list(self.before[name])
        while pending:
            if (one := pending.pop()) not in found:
                found.add(one)
                pending += self.before[one]
        return found

    @property
    def going_on(self) -> bool:
        """Whether any task has not ended."""
        return self._left > 0


def tasks_named(
    patterns: Iterable[str], tasks: Mapping[str, Task], task: str, where: str
) -> list[str]:
    """The other tasks with these names and patterns, without duplicates.

    Raises `BadJob` for one that matches none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [pattern] if pattern in tasks else _matching(pattern, tasks)
        others = [name for name in matches if name != task]
        if not others:
            but = " but this one" if matches else ""
            raise BadJob(f"task {task}", f"{where}: no task is called {pattern!r}{but}")
        found.update(dict.fromkeys(others))
    return list(found)


def _predecessors(task: Task, tasks: Mapping[str, Task]) -> list[str]:
    found = dict.fromkeys(tasks_named(task.after, tasks, task.name, "after"))
    for taken in task.takes:
        found.update(dict.fromkeys(makers(taken, task.name, tasks)))
    return list(found)


def makers(taken: OutputsOf, task: str, tasks: Mapping[str, Task]) -> list[str]:
    """The tasks whose outputs a task takes; raises `BadJob` as `tasks_named` does."""
    return tasks_named(taken.tasks, tasks, task, "outputs_of")


def _matching(pattern: str, tasks: Mapping[str, Task]) -> list[str]:
    return [name for name in tasks if fnmatchcase(name, pattern)] if is_glob(pattern) else []
