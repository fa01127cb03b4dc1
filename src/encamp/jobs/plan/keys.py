"""The key of a task, made from everything its result depends on, and why a task has to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from encamp.errors import printable, shortened
from encamp.jobs.journal.record import Key, Line
from encamp.jobs.plan.fingerprint import fingerprint
from encamp.jobs.steps import Call, Command, Task
from encamp.storage.disk.path_to_destination import NAMED, Trust
from encamp.storage.inputs.mirror import Item, identity
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.still_intact import intact
from encamp.storage.shared_folders import Portable

JOB_INPUTS = "job inputs"
"""The name of the part of a key that is the same for all tasks."""
_WORDS = {
    "code": "the code of its steps",
    "arguments": "an argument of its steps",
    "commands": "a command line",
    "inputs": "an input",
    "taken": "its inputs from other tasks",
    JOB_INPUTS: "a job input",
    "outputs": "its list of outputs",
    "values": "the name of its file of values",
}
INPUT_CHANGED = f"{_WORDS['inputs']} changed"
JOB_INPUT_CHANGED = f"{_WORDS[JOB_INPUTS]} changed"


class Keys:
    """Computes the keys of one job's tasks; parts that tasks share are computed once."""

    def __init__(self, shared: list[Item], destination: Portable) -> None:
        self._code = lru_cache(maxsize=None)(fingerprint)
        self._codes = lru_cache(maxsize=1000)(lambda codes: fingerprint(list(codes)))
        self._destination = fingerprint(destination)
        self._no_outputs = self._of_outputs(())
        self.job_inputs(shared)

    def job_inputs(self, shared: list[Item]) -> None:
        """Use the job's inputs in their present state."""
        self.of_job_inputs = fingerprint(identity(shared))

    def key(self, task: Task, inputs: list[Item], digests: Mapping[str, str]) -> Key:
        """The key of one task; a time limit is not part of it.

        ``digests`` are of the inputs that other tasks made, by target: these count by their
        contents, whenever they were made.
        """
        steps = task.steps
        calls = [step for step in steps if isinstance(step, Call)]
        key = {}
        if calls:
            key["code"] = self._codes(tuple(map(self._code_of, calls)))
            given = [part for call in calls for part in (call.args, call.kwargs)]
            key["arguments"] = fingerprint(given)
        if len(calls) < len(steps):
            key["commands"] = fingerprint(list(map(_facts_of_step, steps)))
        if inputs:
            key |= self._of_inputs(inputs, digests)
        key[JOB_INPUTS] = self.of_job_inputs
        key["outputs"] = self._of_outputs(task.outputs) if task.outputs else self._no_outputs
        if task.values:
            key["values"] = fingerprint(task.values)
        return key

    def _of_inputs(self, inputs: list[Item], digests: Mapping[str, str]) -> Key:
        """Of the inputs, and of those among them that other tasks made."""
        parts = {}
        if given := [item for item in inputs if item.target not in digests]:
            parts["inputs"] = fingerprint(identity(given))
        if len(given) < len(inputs):
            taken = [item for item in inputs if item.target in digests]
            facts = [(str(item.source), item.target, digests[item.target]) for item in taken]
            parts["taken"] = fingerprint(sorted(facts))
        return parts

    def _of_outputs(self, outputs: tuple[Output, ...]) -> str:
        return fingerprint((self._destination, list(map(_facts_of_output, outputs))))

    def _code_of(self, step: Call) -> str:
        try:
            return self._code(step.function)
        except TypeError:  # a callable object that cannot be hashed
            return fingerprint(step.function)


def _facts_of_step(step: Call | Command) -> object:
    """A command without its time limit; None for a call: a different part of the key covers it."""
    if isinstance(step, Call):
        return None
    return step.line, step.shell, step.env, step.stdin, step.stdout


def _facts_of_output(output: Output) -> object:
    """An output, without the facts about its folder, which follow from the rest."""
    return output.pattern, output.to, output.rename, output.required, output.existing


def why_outdated(
    record: Line | None, key: Key, makes: Callable[[str], bool], trust: Trust = NAMED
) -> str | None:
    """Why a task must run, in words; None if its earlier result is still valid.

    ``makes`` returns whether the task can publish a path; other paths are not examined.
    """
    if record is None or record.report is None:
        return "it has not been done before"
    if record.key != key:  # the record may have other parts, of a different version
        for part, words in _WORDS.items():
            if record.key.get(part) != key.get(part):
                return f"{words} changed"
    for output in record.report.outputs:
        if not makes(output.path):
            return f"the journal names {shortened(printable(output.path))}, which it cannot make"
        if not intact(output, trust):
            return f"its output {output.path} was removed or changed"
    return None
