"""In-place tasks, which publish into the folder of their inputs: their outputs are left out there.

With ``mirror="data/*.csv"`` and ``outputs={"*.csv": "data"}``, a second run would find the results
of the first run among the inputs, and run all tasks again. An input that was changed in place is
refused as an output, since every run would change it again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath

from encamp.errors import BadDestination
from encamp.jobs.journal.journal import Journal
from encamp.jobs.plan.graph import Graph
from encamp.jobs.steps import Task
from encamp.storage.inputs.globs import escape, is_glob
from encamp.storage.inputs.mirror import Item, Mirror, Planner
from encamp.storage.shared_folders import local
from encamp.storage.urls import is_url

_IS_INPUT = "it is an input of the job, which every run would change again"


class InPlaceOutputs:
    """The outputs of the ``in_place_tasks`` according to the journal."""

    def __init__(self, in_place_tasks: Collection[str], graph: Graph, journal: Journal) -> None:
        self._in_place_tasks, self._graph, self._journal = in_place_tasks, graph, journal
        self._makers: dict[str, str] | None = None
        self._inputs: set[int] = set()
        """Hashes of the paths of their inputs: a million paths would take too much memory."""

    def concerns(self, task: Task) -> bool:
        """Whether a task is an in-place task."""
        return task.name in self._in_place_tasks

    def without(self, task: Task, items: list[Item], planner: Planner) -> list[Item]:
        """A task's inputs without its own outputs, and those of in-place tasks not before it."""
        if task.name not in self._in_place_tasks or not any(
            is_glob(one.pattern) for one in task.mirror
        ):
            return items
        before = self._graph.all_before(task.name)
        made = {path for path, maker in self._made().items() if maker not in before}
        return [left for item in items for left in _without(item, made, planner)]

    def note_inputs(self, task: Task, items: Iterable[Item]) -> None:
        """Record the inputs of a task."""
        if task.name in self._in_place_tasks:
            self._inputs.update(hash(_place(item)) for item in items)

    def check(self, task: str, finals: Iterable[str]) -> None:
        """Raise `BadDestination` if outputs of in-place tasks would replace their inputs."""
        if task not in self._in_place_tasks:
            return
        for final in set(finals) - self._journal.own(task):
            if any(hash(place) in self._inputs for place in _places_above(final)):
                raise BadDestination(final, _IS_INPUT)

    def note(self, task: str) -> None:
        """Record the outputs of a task that has ended."""
        if self._makers is not None and task in self._in_place_tasks:
            self._makers.update(self._of(task))

    def _made(self) -> dict[str, str]:
        if self._makers is None:
            self._makers = {}
            for task in self._in_place_tasks:
                self._makers.update(self._of(task))
        return self._makers

    def _of(self, task: str) -> dict[str, str]:
        rescued = self._journal.rescued.get(task, set())
        return dict.fromkeys(self._journal.own(task) - rescued, task)


def _without(item: Item, made: set[str], planner: Planner) -> Iterator[Item]:
    """An input without files that tasks have made; nothing if they have made all of it."""
    place = _place(item)
    if item.kind == "file":
        if place not in made:
            yield item
        return
    inner = sorted(path.removeprefix(f"{place}/") for path in made if path.startswith(f"{place}/"))
    if not inner:
        yield item
        return
    exclude = (*item.exclude, *(f"/{escape(path)}" for path in inner))
    how = Mirror(item.name, exclude=exclude, readonly=item.readonly, mode=item.mode)
    left = planner.item(Path(local(item.source)), item.target, how)
    if left.files or not item.files:
        yield left


def _place(item: Item) -> str:
    return item.url or os.path.realpath(local(item.source))


def _places_above(final: str) -> Iterator[str]:
    """The path that would be replaced, and the trees that it may be in."""
    real = final if is_url(final) else os.path.realpath(final)
    for path in {final, real} if is_url(final) or os.path.lexists(final) else ():
        yield path
        yield from map(str, PurePath(path).parents)
