"""Which task waits for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter

from encamp.errors import BadJob
from encamp.jobs.steps import Task


class Graph:
    """The order of a job's tasks: hands out what is ready, takes back what has ended.

    Raises `BadJob` for an ``after`` that names no task, and for tasks that wait for each other.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.before = {name: _predecessors(task, tasks) for name, task in tasks.items()}
        self._sorter: TopologicalSorter[str] = TopologicalSorter(self.before)
        try:
            self._sorter.prepare()
        except CycleError as exc:
            circle = " → ".join(exc.args[1])
            raise BadJob(f"the tasks {circle}", "wait for each other") from None

    def ready(self) -> Iterator[str]:
        """Names of tasks that wait for nothing any more, each handed out once."""
        return iter(self._sorter.get_ready())

    def ended(self, name: str) -> None:
        """The task has ended, well or not."""
        self._sorter.done(name)

    @property
    def going_on(self) -> bool:
        """Whether any task has not ended."""
        return self._sorter.is_active()


def _predecessors(task: Task, tasks: Mapping[str, Task]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in task.after:
        matches = [pattern] if pattern in tasks else _matching(pattern, tasks)
        matches = [name for name in matches if name != task.name]
        if not matches:
            raise BadJob(f"task {task.name}", f"after: no task is called {pattern!r}")
        found.update(dict.fromkeys(matches))
    return list(found)


def _matching(pattern: str, tasks: Mapping[str, Task]) -> list[str]:
    if not any(c in pattern for c in "*?["):
        return []
    return [name for name in tasks if fnmatchcase(name, pattern)]
