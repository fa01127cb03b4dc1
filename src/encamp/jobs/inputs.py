"""What goes into the tasks' folders: looked up before anything runs, or when it is their turn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from encamp.errors import TargetConflict
from encamp.jobs.graph import Graph, makers
from encamp.jobs.job import Job
from encamp.jobs.journal import Journal, outputs_in
from encamp.jobs.outputs_of import Made, OutputsOf, chosen
from encamp.jobs.steps import Task
from encamp.jobs.swept import Swept
from encamp.model import Published
from encamp.storage.believed import Believed
from encamp.storage.globs import escape
from encamp.storage.mirror import Item, Mirror, Planner, merged
from encamp.storage.remote import is_url


def _has_any(task: Task) -> bool:
    return bool(task.mirror or task.takes)


class Inputs:
    """The inputs of a job's tasks; ``journal`` says what those that they wait for have made."""

    def __init__(
        self,
        job: Job,
        graph: Graph,
        journal: Journal,
        believed: Believed,
        sweepers: Collection[str] = (),
    ) -> None:
        self.job, self.graph, self.journal, self.believed = job, graph, journal, believed
        self.swept = Swept(sweepers, graph, journal)
        self._left_out = [Path(os.path.realpath(folder)) for folder in (job.to, job.folder)]
        planner = self._planner()
        self.shared: list[Item] = []
        self._at: dict[str, Item] = {}
        self._plan_shared(planner)
        self._planned: dict[str, list[Item]] = {}
        self._digests: dict[str, dict[str, str]] = {}
        for name, task in job.tasks.items():
            if _has_any(task) and not graph.before[name]:
                self._planned[name] = self._plan(task, planner)
        planned = (item.identity for items in self._planned.values() for item in items)
        self._wanted = Counter(planned)

    def of(self, name: str) -> list[Item]:
        """What a task's patterns match; of one that waits for others, what they match now."""
        task, items = self.job.tasks[name], self._planned.get(name)
        if items is None:
            items = self._plan(task, self._planner()) if _has_any(task) else []
        items = self.swept.without(task, items, self._planner())
        return [self._by_cache(item) for item in items]

    def digests(self, name: str) -> dict[str, str]:
        """What `of` found of other tasks' outputs: target → digest, as those published them."""
        return self._digests.get(name, {})

    def look_again(self, name: str) -> list[Item]:
        """What a task's patterns match now, and those of the job, whatever they matched before."""
        self._planned.pop(name, None)
        self._digests.pop(name, None)
        self._plan_shared(self._planner())
        return self.of(name)

    def _plan_shared(self, planner: Planner) -> None:
        self.shared = [replace(item, readonly=True) for item in planner.plan(self.job.mirror)]
        self._at = {item.target: item for item in self.shared}

    def forget(self, name: str) -> None:
        """Free what is kept for a task that has ended."""
        self._planned.pop(name, None)
        self._digests.pop(name, None)
        self.swept.note(name)

    def _planner(self) -> Planner:
        return Planner(self.job.base, self._left_out)

    def _plan(self, task: Task, planner: Planner) -> list[Item]:
        """The task's own inputs, without those that are job inputs as well."""
        items = planner.plan(task.mirror)
        if task.takes:
            taken = [item for one in task.takes for item in self._taken(one, task.name, planner)]
            items = merged([*items, *taken])
        own = []
        for item in items:
            other = self._at.get(item.target, item)
            if other.identity != item.identity:
                raise TargetConflict(item.target, other.name, item.name)
            if item.target not in self._at:
                own.append(item)
        return own

    def _taken(self, wanted: OutputsOf, name: str, planner: Planner) -> Iterator[Item]:
        made = (self._made(maker) for maker in makers(wanted, name, self.job.tasks))
        digests = self._digests.setdefault(name, {})
        for target, published in chosen(wanted, made, self.job.to).items():
            item = self._item(published, target, wanted, planner)
            if published.digest:
                digests[item.target] = published.digest
            yield item

    def _made(self, maker: str) -> Made:
        outputs = self.job.tasks[maker].outputs
        published = outputs_in(self.journal.done.get(maker))
        return Made(outputs, [one for one in published if self.believed.makes(outputs, one.path)])

    def _item(self, published: Published, target: str, wanted: OutputsOf, planner: Planner) -> Item:
        how = Mirror(escape(published.path), readonly=wanted.readonly, mode=wanted.mode)
        if not is_url(published.path):
            return planner.item(Path(published.path), target, how)
        (item,) = planner.plan([how])
        return replace(item, target=target)

    def _by_cache(self, item: Item) -> Item:
        """What one task alone wants goes past the cache, where that saves a copy."""
        several = item.kind == "tree" or item.mode != "auto" or self._wanted[item.identity] > 1
        return item if several else replace(item, cached=False)
