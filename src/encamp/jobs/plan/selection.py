"""The tasks that a run includes: all of the job, or some and those that they wait for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from encamp.errors import BadJob, printable
from encamp.jobs.journal.journal import Journal
from encamp.jobs.plan.graph import Graph
from encamp.jobs.run_options import RunOptions
from encamp.jobs.steps import Task

NONE_FAILED = "no task failed in its last run"


class Selection:
    """The tasks that ``options`` select. Raises `BadJob` for a pattern that matches no task."""

    def __init__(self, tasks: Mapping[str, Task], graph: Graph, options: RunOptions) -> None:
        self._tasks, self._graph, self._failed = tasks, graph, options.failed
        self._named = _find_named(options.only, tasks) if options.only else tasks.keys()
        self.whole = not (options.only or options.failed)
        """Whether all tasks are selected."""

    def tasks(self, journal: Journal) -> Collection[str]:
        """The names of the selected tasks and those that they wait for, in the job's order."""
        if self.whole:
            return self._tasks.keys()
        chosen = [name for name in self._named if not self._failed or name in journal.failed]
        wanted = {*chosen, *(one for name in chosen for one in self._graph.all_before(name))}
        return [name for name in self._tasks if name in wanted]


def _find_named(patterns: Iterable[str], tasks: Mapping[str, Task]) -> Collection[str]:
    found: set[str] = set()
    for pattern in patterns:
        matches = [name for name in tasks if name == pattern or fnmatchcase(name, pattern)]
        if not matches:
            raise BadJob(f"only {pattern!r}", no_task_named(pattern, list(tasks)))
        found.update(matches)
    return found


def no_task_named(pattern: str, names: list[str]) -> str:
    """The error for a name or pattern that matches no task."""
    if (close := get_close_matches(pattern, names, 1)) and close[0] != pattern:
        return f"no task of this job is called {pattern!r}; did you mean {close[0]!r}?"
    some = ", ".join(map(printable, names[:5]))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"no task of this job is called {pattern!r}; its tasks are {some}{more}"
