"""Everything about a job that can be known, and all errors that can be found, before it runs."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from encamp.errors import BadJob, OutputConflict
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Key, Line
from encamp.jobs.plan.fingerprint import own_module
from encamp.jobs.plan.graph import Graph
from encamp.jobs.plan.inputs import Inputs, planner_of
from encamp.jobs.plan.keys import INPUT_CHANGED, JOB_INPUT_CHANGED, JOB_INPUTS, Keys, why_outdated
from encamp.jobs.plan.name_changed_inputs import JobInputs, changed_input, listed, with_name
from encamp.jobs.plan.redefined_functions import redefined
from encamp.jobs.plan.reserved_folder import check_reserved_folder
from encamp.jobs.plan.unordered_readers import check_readers
from encamp.jobs.steps import Call, Command
from encamp.jobs.worker.work_and_outcome import pack
from encamp.storage.disk.path_to_destination import trust_in
from encamp.storage.inputs.mirror import Item
from encamp.storage.outputs.accepted_names import DeclaredNames
from encamp.storage.outputs.patterns import Folders, Output, check_destination, check_outputs
from encamp.storage.shared_folders import portable
from encamp.wire.rng_warnings import RandomNumberWarnings

_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})


def _is_plain(step: Call | Command) -> bool:
    """Whether everything except the step's function can certainly be pickled."""
    if isinstance(step, Command):
        return True
    return _PLAIN.issuperset(map(type, (*step.args, *step.kwargs.values())))


class Prepared:
    """A checked job. Creating one raises an `InputError` for anything that cannot work."""

    def __init__(self, job: JobDefinition, journal: Journal | None = None) -> None:
        if not job.tasks:
            raise BadJob(f"job {job.name}", "has no tasks")
        self.job = job
        journal = journal or Journal(job.true_folder(), shared=job.shared, is_true=True)
        tasks = job.tasks.values()
        outputs = [one for task in tasks for one in (*task.outputs, *task.on_failure)]
        self.declared = DeclaredNames(job.to, outputs)
        self._journal = journal
        journal.may_have_published = self.declared.may_be_published
        self.graph = Graph(job.tasks)
        self._trust = trust_in(job.to, shared=journal.own_folder.shared)
        check_destination(journal.folder.parent)
        self._folders: Folders = {}
        self.finals = self._final_names()
        check_reserved_folder(job, outputs, self.declared.reach)
        planner = planner_of(job)
        in_place_tasks = check_readers(job, self.graph, planner, self.declared.reach)
        self.inputs = Inputs(job, self.graph, journal, self.declared, in_place_tasks, planner)
        self.shared = tuple(self.inputs.shared)
        self.keys = Keys(self.inputs.shared, portable(job.to))
        self._job_inputs = JobInputs(journal.own_folder)
        self._by_value: set[types.ModuleType] = set()
        self._sent: dict[str, set[types.ModuleType]] = {}
        self._check_steps()
        self.warnings = redefined(tasks)

    def _final_names(self) -> dict[str, str]:
        """Known final paths → the task of each; checks the folders that outputs go to."""
        finals: dict[str, str] = {}
        for task in self.job.tasks.values():
            for outputs in filter(None, (task.outputs, task.on_failure)):
                for final in self._known(outputs):
                    owner = finals.setdefault(final, task.name)
                    if owner != task.name:
                        raise OutputConflict(final, f"task {owner}", f"task {task.name}")
        return finals

    def _known(self, outputs: tuple[Output, ...]) -> dict[str, str]:
        return check_outputs(outputs, self.job.to, self._folders, shared=self._trust.shared)

    def _check_steps(self) -> None:
        """Raise `CannotTravel` for steps that cannot be pickled; similar ones are tried once."""
        rng_warnings = RandomNumberWarnings()
        travel: set[int] = set()
        for name, task in self.job.tasks.items():
            calls = [step for step in task.steps if isinstance(step, Call)]
            functions = {id(step.function) for step in calls}
            plain = all(map(_is_plain, task.steps))
            if not (plain and functions <= travel):
                pack(name, task.steps, self._by_value)
                travel |= functions
            for step in calls:  # plain arguments are not random number generators
                given = () if plain else (*step.args, *step.kwargs.values())
                rng_warnings.of_step(step.function, given)

    def bound(self, outputs: Iterable[Output]) -> tuple[Output, ...]:
        """Outputs in the form that goes to other hosts."""
        found = []
        for output in outputs:
            place = self._folders[output.to, output.at]
            found.append(replace(output, at=place.at, trust=place.trust))
        return tuple(found)

    def look_again(self, name: str) -> tuple[list[Item], Key]:
        """The present inputs of a task and of the job, and its key. Raises as `Inputs.of`."""
        inputs = self.inputs.look_again(name)
        if self.inputs.shared != list(self.shared):
            self.shared = tuple(self.inputs.shared)
            self.keys.job_inputs(self.inputs.shared)
            self.note_job_inputs()
        return inputs, self.key(name, inputs)

    def key(self, name: str, inputs: list[Item]) -> Key:
        """The key of a task."""
        return self.keys.key(self.job.tasks[name], inputs, self.inputs.digests(name))

    def why_run(self, name: str, record: Line | None, key: Key, inputs: list[Item]) -> str | None:
        """Why a task must run, in words; None if its earlier result is still valid."""
        if record is None and name in self._journal.failed:
            return "it failed in its last run"
        outputs = self.job.tasks[name].outputs
        why = why_outdated(record, key, partial(self.declared.allow, outputs), self._trust)
        if why is None or record is None:
            return why
        return with_name(why, self._which_input(why, record, inputs))

    def _which_input(self, why: str, record: Line, inputs: list[Item]) -> str:
        """The input that changed, if that is the reason; empty if unknown."""
        if why == INPUT_CHANGED:
            whole = self._journal.done.get(record.task)
            before = whole.report.inputs if whole is not None and whole.report else []
            return changed_input(before, listed(inputs)) if before else ""
        if why == JOB_INPUT_CHANGED:
            return self._job_inputs.changed(record.key.get(JOB_INPUTS, ""), self.inputs.shared)
        return ""

    def note_job_inputs(self) -> None:
        """Record the job's inputs, so that a later run can find out which one changed."""
        self._job_inputs.note(self.keys.of_job_inputs, self.inputs.shared)

    def steps(self, name: str) -> bytes:
        """The task's steps, pickled."""
        return pack(name, self.job.tasks[name].steps, self._by_value)

    def send_by_value(self, name: str, module: str) -> bool:
        """Pickle a task's steps again, with the code of ``module``; False if that cannot help."""
        found = sys.modules.get(module)
        if found is None or not own_module(found) or module == "__main__":
            return False
        before = self._sent.get(name)
        self._by_value.add(found)
        self._sent[name] = set(self._by_value)
        return self._sent[name] != before

    def forget(self, name: str) -> None:
        """Free what is kept for a task that has ended."""
        self.inputs.forget(name)
        self._sent.pop(name, None)
