"""Tasks whose outputs go where their own inputs are: what they have made there is no input.

``mirror="data/*.csv"`` with ``outputs={"*.csv": "data"}``: a second run would find the results of
the first among the inputs, and make everything anew. An input that was changed in place and
published over itself stays an input.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from encamp.jobs.graph import Graph
from encamp.jobs.journal import Journal
from encamp.jobs.steps import Task
from encamp.storage.globs import is_glob
from encamp.storage.mirror import Item
from encamp.storage.roots import local


class Swept:
    """Knows what the ``sweepers``, tasks of that kind, have made as far as the journal tells."""

    def __init__(self, sweepers: Collection[str], graph: Graph, journal: Journal) -> None:
        self._sweepers, self._graph, self._journal = sweepers, graph, journal
        self._makers: dict[str, str] | None = None

    def without(self, task: Task, items: Iterable[Item]) -> list[Item]:
        """Inputs of a task but those that it has made itself, or a sweeper not before it."""
        if task.name not in self._sweepers or not any(is_glob(one.pattern) for one in task.mirror):
            return list(items)
        made, before = self._made(), self._graph.all_before(task.name)
        makers = ((item, made.get(_place(item))) for item in items)
        return [item for item, maker in makers if maker is None or maker in before]

    def sources(self, task: str, items: Iterable[Item]) -> frozenset[str]:
        """The true places of a sweeper's inputs, which its outputs may replace."""
        return frozenset(map(_place, items)) if task in self._sweepers else frozenset()

    def note(self, task: str) -> None:
        """A task has ended, and may have made something."""
        if self._makers is not None and task in self._sweepers:
            self._makers.update(self._of(task))

    def _made(self) -> dict[str, str]:
        if self._makers is None:
            self._makers = {}
            for task in self._sweepers:
                self._makers.update(self._of(task))
        return self._makers

    def _of(self, task: str) -> dict[str, str]:
        rescued = self._journal.rescued.get(task, set())
        return dict.fromkeys(self._journal.own(task) - rescued, task)


def _place(item: Item) -> str:
    return item.url or os.path.realpath(local(item.source))
