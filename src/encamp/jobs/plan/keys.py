"""The key of a task, made from everything its result depends on, and why a task has to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from encamp.errors import printable, shortened
from encamp.jobs.journal import Key, Line
from encamp.jobs.plan.fingerprint import digest, fingerprint
from encamp.jobs.plan.quick_digest import Fields, NotPlainError, digest_of_calls, joined
from encamp.jobs.steps import Call, Command, Task
from encamp.storage.disk.trusted import NAMED, Trust
from encamp.storage.inputs.mirror import Item, identity
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.publish import intact
from encamp.storage.roots import Portable

JOB_INPUTS = "job inputs"
"""What the part of a key is called that is the same for all tasks."""
_WORDS = {
    "code": "the code of its steps",
    "arguments": "an argument of its steps",
    "commands": "a command line",
    "inputs": "an input",
    "taken": "what it takes from other tasks",
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
        self._kinds = lru_cache(maxsize=1000)(lambda kinds: digest(list(kinds)))
        self._no_lines = lru_cache(maxsize=1000)(lambda kinds: fingerprint((list(kinds), [])))
        self._to = digest(destination)
        self._outputs = lru_cache(maxsize=1000)(self._outputs_of)
        self.job_inputs(shared)

    def job_inputs(self, shared: list[Item]) -> None:
        """Use the job's inputs in their present state."""
        self.of_job_inputs = fingerprint(identity(shared))

    def key(self, task: Task, inputs: list[Item], digests: Mapping[str, str]) -> Key:
        """The key of one task; a time limit is not part of it.

        ``digests`` are of the inputs that other tasks made, by target: these count by their
        contents, whenever they were made.
        """
        kinds = tuple([isinstance(step, Call) for step in task.steps])
        key = {}
        if any(kinds):
            calls = [step for step in task.steps if isinstance(step, Call)]
            key["code"] = self._codes(tuple([self._code_of(call) for call in calls]))
            key["arguments"] = _arguments([(call.args, call.kwargs) for call in calls])
        if all(kinds):
            key["commands"] = self._no_lines(kinds)
        else:
            lines = [step for step in task.steps if isinstance(step, Command)]
            key["commands"] = self._commands(kinds, lines)
        if inputs:
            key |= self._of_inputs(inputs, digests)
        key[JOB_INPUTS] = self.of_job_inputs
        key["outputs"] = self._outputs(task.outputs)
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

    def _outputs_of(self, outputs: tuple[Output, ...]) -> str:
        """Of the destination, which is the same for all tasks, and a list of outputs."""
        try:
            listed = joined(b"list", map(_OUTPUT.digest, outputs))
        except NotPlainError:
            listed = digest([_fields(one) for one in outputs])
        return joined(b"tuple", (self._to, listed)).hex()

    def _commands(self, kinds: tuple[bool, ...], lines: list[Command]) -> str:
        """Of which steps are commands, and of these without their time limits."""
        try:
            listed = joined(b"list", [_COMMAND.digest(line, time_limit=None) for line in lines])
            return joined(b"tuple", (self._kinds(kinds), listed)).hex()
        except NotPlainError:
            fields = [{**_fields(line), "time_limit": None} for line in lines]
            return fingerprint((list(kinds), fields))

    def _code_of(self, step: Call) -> str:
        try:
            return self._code(step.function)
        except TypeError:  # a callable object that cannot be hashed
            return fingerprint(step.function)


def _arguments(calls: list[tuple[object, object]]) -> str:
    try:
        return digest_of_calls(calls).hex()
    except NotPlainError:
        return fingerprint(calls)


_COMMAND = Fields(Command.__dataclass_fields__, "line")
_WHERE = {"at", "trust"}
"""What an output is told of its folder, which says no more than ``to`` and the destination."""
_OUTPUT = Fields(Output.__dataclass_fields__.keys() - _WHERE, "pattern")


def _fields(value: Command | Output) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__.keys() - _WHERE}


def why_run(
    record: Line | None, key: Key, makes: Callable[[str], bool], trust: Trust = NAMED
) -> str | None:
    """Why a task must run, in words; None if its earlier result is still valid.

    ``makes`` says whether the task can publish a path; no other paths are looked at.
    """
    if record is None or record.report is None:
        return "it has not been done before"
    if record.key != key:  # which may also have parts that only another version knows
        for part, words in _WORDS.items():
            if record.key.get(part) != key.get(part):
                return f"{words} changed"
    for output in record.report.outputs:
        if not makes(output.path):
            return f"the journal names {shortened(printable(output.path))}, which it cannot make"
        if not intact(output, trust):
            return f"its output {output.path} was removed or changed"
    return None
