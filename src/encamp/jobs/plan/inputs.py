"""The inputs of tasks: looked up before anything runs, or when a task is about to run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from encamp.attempt_facts import Published
from encamp.errors import NoMatch, TargetConflict, UnusableInput
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.outputs_of import OutputsOf, PublishedOutputs, chosen
from encamp.jobs.plan.graph import Graph, makers
from encamp.jobs.plan.in_place_tasks import InPlaceOutputs
from encamp.jobs.steps import Task
from encamp.storage.inputs.globs import escape
from encamp.storage.inputs.mirror import Item, Mirror, Planner, merged
from encamp.storage.outputs.accepted_names import DeclaredNames
from encamp.storage.urls import is_url

_FIELDS = tuple(Item.__struct_fields__)
"""The last one is ``cached``."""
_KIND, _MODE, _IDENTITY = map(_FIELDS.index, ("kind", "mode", "identity"))
_row = attrgetter(*_FIELDS)


def _packed(items: list[Item]) -> bytes:
    return pickle.dumps(list(map(_row, items)), pickle.HIGHEST_PROTOCOL)


def _unpacked(packed: bytes) -> list[Item]:
    return [Item(*row) for row in pickle.loads(packed)]  # noqa: S301 - `_packed` here


def planner_of(job: JobDefinition) -> Planner:
    """Looks up a job's patterns, which do not match its destination unless they begin with it."""
    return Planner(job.base, map(Path, map(os.path.realpath, (job.to, job.folder))))


class Inputs:
    """The inputs of a job's tasks; ``journal`` has the outputs of the tasks that they wait for."""

    def __init__(
        self,
        job: JobDefinition,
        graph: Graph,
        journal: Journal,
        declared: DeclaredNames,
        in_place_tasks: Collection[str],
        planner: Planner,
    ) -> None:
        self.job, self.graph, self.journal, self.declared = job, graph, journal, declared
        self.in_place = InPlaceOutputs(in_place_tasks, graph, journal)
        self.shared: list[Item] = []
        self._at: dict[str, Item] = {}
        self._left_out = planner.left_out
        self._plan_shared(planner)
        self._planned: dict[str, bytes] = {}
        """Pickled: items of a million tasks would take a gigabyte."""
        self._digests: dict[str, dict[str, str]] = {}
        once: set[int] = set()
        self._wanted: set[int] = set()
        """Hashes of the identities of inputs that several tasks need."""
        for name, task in job.tasks.items():
            if (task.mirror or task.takes) and not graph.before.get(name):
                items = self._plan(task, planner)
                self._planned[name] = _packed(items)
                self.in_place.note_inputs(task, items)
                wanted = {hash(item.identity) for item in items}
                self._wanted |= once & wanted
                once |= wanted

    def of(self, name: str) -> list[Item]:
        """The files that a task's patterns match; for a task that waits for others, now."""
        task = self.job.tasks[name]
        if not (task.mirror or task.takes):
            return []
        packed = self._planned.get(name)
        if packed is not None and not self.in_place.concerns(task):
            rows = pickle.loads(packed)  # noqa: S301 - `_packed` here
            return [Item(*(*row[:-1], self._cached(row))) for row in rows]
        items = self._plan(task, self._planner()) if packed is None else _unpacked(packed)
        items = self.in_place.without(task, items, self._planner())
        self.in_place.note_inputs(task, items)
        return [replace(item, cached=self._cached(_row(item))) for item in items]

    def digests(self, name: str) -> dict[str, str]:
        """The inputs from other tasks that `of` found: target → digest, as published."""
        return self._digests.get(name, {})

    def look_again(self, name: str) -> list[Item]:
        """Look up a task's patterns, and those of the job, again."""
        self._planned.pop(name, None)
        self._digests.pop(name, None)
        self._plan_shared(self._planner())
        return self.of(name)

    def _plan_shared(self, planner: Planner) -> None:
        if self.job.mirror:
            self.shared = [replace(item, readonly=True) for item in planner.plan(self.job.mirror)]
            self._at = {item.target: item for item in self.shared}

    def forget(self, name: str) -> None:
        """Free the memory of a task that has ended."""
        self._planned.pop(name, None)
        self._digests.pop(name, None)
        self.in_place.note(name)

    def _planner(self) -> Planner:
        return Planner(self.job.base, self._left_out)

    def _plan(self, task: Task, planner: Planner) -> list[Item]:
        """The task's own inputs, without those that are job inputs as well."""
        try:
            return self._own(task, planner)
        except (NoMatch, UnusableInput, TargetConflict) as exc:
            raise exc.with_facts(task=task.name) from exc.__cause__

    def _own(self, task: Task, planner: Planner) -> list[Item]:
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

    def _made(self, maker: str) -> PublishedOutputs:
        outputs = self.job.tasks[maker].outputs
        published = self.journal.done.outputs(maker)
        return PublishedOutputs(
            outputs, [one for one in published if self.declared.allow(outputs, one.path)]
        )

    def _item(self, published: Published, target: str, wanted: OutputsOf, planner: Planner) -> Item:
        how = Mirror(escape(published.path), readonly=wanted.readonly, mode=wanted.mode)
        if not is_url(published.path):
            return planner.item(Path(published.path), target, how)
        (item,) = planner.plan([how])
        return replace(item, target=target)

    def _cached(self, row: tuple[Any, ...]) -> bool:
        """Whether an input uses the cache: one of a single task does not, if that saves a copy."""
        kind, mode, identity = row[_KIND], row[_MODE], row[_IDENTITY]
        return kind == "tree" or mode != "auto" or hash(identity) in self._wanted
