"""Reports of jobs, tasks and attempts: who ran what, when, and with which result.

Times are seconds since the epoch (`time.time`) on the host that took them; sizes are bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from operator import attrgetter
from typing import Any

from encamp.attempt_facts import Published, Span, Where, quickly_pickled
from encamp.errors import BadValues, EncampError, NotInstalled, printable, shown
from encamp.job_status import State
from encamp.service_statistics import ServicesStatistics, ServiceStatistics
from encamp.task_values import Scalar, rounded, row_of
from encamp.units import time_text

_IN_ORDER: tuple[State, ...] = (
    "to do",
    "done",
    "up to date",
    "failed",
    "blocked",
    "running",
    "waiting",
)
"""The states in the order in which people read their counts."""
DRY_RUN = "dry run"
"""The executor's name in the report of a dry run."""


MOST_COUNTED = 1000
"""Orphans are counted up to this number, because each is looked for on the disk."""
_LISTED = 10
"""How many failures, or rows, a summary shows."""
_FORESEEN = 50
"""The number of tasks for which the summary of a dry run says why they would run."""
_COLUMNS = 12
"""The number of columns of values that a notebook shows."""
_LOGS_SHOWN = 3
"""The number of failures for which a notebook shows the inputs and the end of the log."""
_LOG_LINES = 40
"""The number of lines of a task's log that a notebook shows."""


@quickly_pickled
@dataclass(frozen=True, slots=True)
class InputFile:
    """One input as it was when it was looked up: its real path, and its name in the task's folder.

    For a folder, the size of all files in it and the time of the newest.
    """

    path: str
    target: str
    size: int
    mtime_ns: int


@quickly_pickled
@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt at one task.

    number, where
        The attempt's number, from 1, and where it ran (None if it did not start).
    submitted
        When it was submitted (as `time.time` returns it).
    phases
        Its phases, in the order in which they ran, with their start and length in seconds.
    bytes_mirrored, files_mirrored
        How many bytes and files were mirrored into the task's folder.
    cpu_seconds, peak_memory
        CPU time in seconds, and the largest memory of one of its processes in bytes.
    error, error_type
        The message and class of its error; None if it succeeded.
    """

    number: int
    where: Where | None
    submitted: float
    phases: list[Span] = field(default_factory=list)
    bytes_mirrored: int = 0
    files_mirrored: int = 0
    bytes_shared: int = 0
    """Bytes of job inputs that this attempt fetched to its host; 0 if the host had them."""
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    error: str | None = None
    error_type: str | None = None


@quickly_pickled
@dataclass(frozen=True, slots=True)
class TaskReport:
    """The report of one task; also one of an earlier run, if the task is up to date.

    name, state
        The task's name; "done", "failed", "up to date" and so on.
    why
        Why the task ran, did not run or failed, in words.
    attempts
        Its attempts, in their order: where and how long each one ran. `seconds` is the time of the
        last one.
    inputs, more_inputs
        The first twenty of its own inputs when it was last submitted, and how many more it has.
    outputs, rescued
        The files that it has published; those that it left when it failed (``on_failure``).
    log, log_tail
        The file with what it has printed, relative to the job's folder (None if it printed
        nothing), and the end of it.
    kept
        Its folder as ``host:path``, if that was kept.
    value
        What its last function returned, if JSON can represent it, or the contents of its file of
        values.
    not_kept
        The type of that value if JSON cannot represent it, or would need more than 1 MiB; later
        runs then lack the value.
    parameters
        The values that it was made for: those of ``foreach``, or arguments of its function.
    """

    name: str
    state: State
    attempts: list[AttemptReport] = field(default_factory=list)
    outputs: list[Published] = field(default_factory=list)
    why: str = ""
    log: str | None = None
    log_tail: str = ""
    kept: str | None = None
    value: Any = None
    rescued: list[Published] = field(default_factory=list)
    parameters: dict[str, Scalar] = field(default_factory=dict)
    not_kept: str = ""
    inputs: list[InputFile] = field(default_factory=list)
    more_inputs: int = 0

    @property
    def seconds(self) -> float:
        """The time of its last attempt, the sum of its phases; 0 if there was none."""
        return sum(phase.seconds for phase in self.attempts[-1].phases) if self.attempts else 0.0

    def _repr_html_(self) -> str:
        from encamp.notebook_html import box, heading, printed, table
        from encamp.short_tracebacks import brief_log

        last = self.attempts[-1] if self.attempts else None
        facts: list[tuple[str, object]] = [("why", self.why)]
        facts += [(name, value) for name, value in self.parameters.items()]
        facts += [] if self.value is None else [("value", rounded(self.value))]
        if last is not None and last.where is not None:
            facts.append(("ran on", f"{last.where.host}, {last.where.worker}"))
        if last is not None:
            facts.append(("took", time_text(self.seconds)))
        more = [f"and {self.more_inputs} more"] if self.more_inputs else []
        facts += [("input", one) for one in (*(file.path for file in self.inputs), *more)]
        facts += [("output", output.path) for output in self.outputs[:_LISTED]]
        facts += [] if self.kept is None else [("folder", self.kept)]
        log = printed("\n".join(brief_log(self.log_tail, _LOG_LINES)))
        return box(heading(self.name, self.state), table(("", ""), facts), log)

    def row(self) -> dict[str, Scalar]:
        """The task's name, its parameters and its values; empty if it has no value.

        Raises `BadValues` if the value contains anything except numbers and strings.
        """
        if self.not_kept:
            raise BadValues(self.name, f"its value has the type {self.not_kept}")
        if self.value is None:
            return {}
        row = {**self.parameters, **row_of(self.value, self.name)}
        row.pop("task", None)
        return {"task": self.name, **row}


class TaskReports(Sequence[TaskReport]):
    """The reports of very many tasks, each built when it is needed; equal to a list of them."""

    @abstractmethod
    def states(self) -> Iterator[State]:
        """The state of each task, without building its report."""

    @abstractmethod
    def of_state(self, *states: State) -> Iterator[TaskReport]:
        """The reports of the tasks that are in one of these states."""

    @abstractmethod
    def named(self, name: str) -> TaskReport:
        """The report of one task; KeyError if there is none of that name."""

    def __add__(self, other: Iterable[TaskReport]) -> list[TaskReport]:
        return [*self, *other]

    def __radd__(self, other: Iterable[TaskReport]) -> list[TaskReport]:
        return [*other, *self]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | TaskReports) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(self) -> tuple[type[list[TaskReport]], tuple[list[TaskReport]]]:
        """Copies and pickles are lists."""
        return list, (list(self),)


def orphans_text(count: int, destination: str) -> str:
    """A sentence with the number of orphans, and the command that removes them."""
    files = "1 file" if count == 1 else f"{count} files"
    if count > MOST_COUNTED:
        files = f"more than {MOST_COUNTED} files"
    return (
        f"{files} of earlier runs that no task of the job makes any more: "
        f"encamp prune {printable(destination)}"
    )


@dataclass(frozen=True, repr=False)
class JobReport:
    """The report of one run of a job; `str` gives a summary. Times are those of `time.time`."""

    name: str
    destination: str
    folder: str
    """The job's own folder in the destination: journal, report, logs."""
    started: float
    ended: float
    controller: str
    executor: str
    version: str
    interrupted: bool
    """Whether it was stopped by a signal, an error or `max_failures` before all tasks had ended."""
    tasks: Sequence[TaskReport]
    """The tasks of this run; a list, or for very many tasks a sequence that takes less memory."""
    warnings: list[str] = field(default_factory=list)
    """Sentences about possible mistakes, such as tasks that read orphans."""
    services: list[ServiceStatistics] = field(default_factory=list)
    """Statistics of the services on the job's cluster, at the end of the job."""
    not_selected: int = 0
    """The number of the job's tasks that ``only`` or ``failed`` left out."""
    after: dict[str, list[str]] = field(default_factory=dict)
    """Task → the tasks that it waited for; empty if there are none, or very many."""
    orphans: int = 0
    """The number of files that the job has published and that none of its tasks makes any more;
    1001 stands for more than 1000."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", ServicesStatistics(self.services))

    def __repr__(self) -> str:
        return f"<JobReport {self.name!r}: {self._counted()}>"

    def __str__(self) -> str:
        """A summary: tasks by state, which failed and why, and the path of the complete report.

        Of a dry run: which tasks would run, and why.
        """
        lines = [f"{printable(self.name)}: {self.words()}"]
        lines += [f"  warning: {shown(warning)}" for warning in self.warnings]
        listed, more = self._listed()
        lines += [f"  {task.state}: {printable(task.name)}: {shown(task.why)}" for task in listed]
        lines += [f"  and {more} more {listed[0].state}"] if more else []
        lines += [f"  {text}" for text in self._orphans_line()]
        lines += [] if self.is_dry_run else [f"  report: {printable(self.folder)}/report.html"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from encamp.notebook_html import bar, box, heading, line, table

        parts = [
            heading(self.name, self.words()),
            bar(self.counts()),
            *(line(f"warning: {warning}") for warning in self.warnings),
        ]
        listed, more = self._listed()
        if listed:
            rows = [(task.name, task.state, task.why) for task in listed]
            parts.append(table(("task", "", "why"), rows, more))
        if not self.is_dry_run:  # its values would be those of an earlier run
            parts.append(self._values_as_html())
        parts += map(line, self._orphans_line())
        parts += [] if self.is_dry_run else [line(f"report: {self.folder}/report.html")]
        return box(*parts)

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing was run, because of ``dry_run=True``."""
        return self.executor == DRY_RUN

    def words(self) -> str:
        """How many tasks are in each state, and how long the run took."""
        if self.is_dry_run:
            to_do, kept = self.count("to do"), self.count("up to date")
            return f"{to_do} to do, {kept} up to date; nothing was run"
        return f"{self._counted()} in {time_text(self.ended - self.started)}"

    def _counted(self) -> str:
        counts = [f"{number} {state}" for state, number in self.counts().items()]
        counts += [f"{self.not_selected} not selected"] if self.not_selected else []
        return ", ".join(counts) or "no task"

    def _listed(self) -> tuple[list[TaskReport], int]:
        """The tasks that a summary names with the reason, and how many more there are."""
        state: State = "to do" if self.is_dry_run else "failed"
        most = _FORESEEN if self.is_dry_run else _LISTED
        listed = list(islice(self.of_state(state), most))
        return listed, self.count(state) - len(listed)

    def _orphans_line(self) -> list[str]:
        return [orphans_text(self.orphans, self.destination)] if self.orphans else []

    def _values_as_html(self) -> str:
        from encamp.errors import BadValues
        from encamp.notebook_html import table

        try:
            rows = self.values()
        except BadValues:
            return ""
        if not rows:
            return ""
        heads = list(dict.fromkeys(name for row in rows[:_LISTED] for name in row))[:_COLUMNS]
        cells = [[rounded(row.get(name, "")) for name in heads] for row in rows[:_LISTED]]
        return table(heads, cells, len(rows) - len(cells))

    def count(self, state: State) -> int:
        """How many tasks are in ``state``, such as "done", "up to date" or "failed"."""
        return sum(one == state for one in self.states())

    def counts(self) -> dict[State, int]:
        """How many tasks are in each state; states without tasks are left out."""
        found = Counter(self.states())
        return {state: found[state] for state in _IN_ORDER if found[state]}

    def states(self) -> Iterator[State]:
        """The state of each task."""
        if isinstance(self.tasks, TaskReports):
            return self.tasks.states()
        return map(attrgetter("state"), self.tasks)

    def of_state(self, *states: State) -> Iterator[TaskReport]:
        """The tasks that are in one of these states."""
        if isinstance(self.tasks, TaskReports):
            return self.tasks.of_state(*states)
        return iter([task for task in self.tasks if task.state in states])

    def values(self, tasks: str | Iterable[str] = "*") -> list[dict[str, Scalar]]:
        """A row for each task that has a value: its name, its parameters and its values.

        ``tasks`` are names or patterns. Raises `BadValues` for a value that is neither a number, a
        string, nor a mapping of names to these.
        """
        patterns = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        done = self.of_state("done", "up to date")
        rows = (task.row() for task in done if any(fnmatchcase(task.name, p) for p in patterns))
        return [row for row in rows if row]

    def table(self, tasks: str | Iterable[str] = "*") -> Any:
        """The same as a pandas DataFrame, indexed by the tasks' names.

        Raises `NotInstalled` without pandas, and the errors of `values`.
        """
        rows = self.values(tasks)
        try:
            import pandas as pd
        except ImportError as exc:
            instead = "take report.values(), a list of rows, or the file results.csv"
            raise NotInstalled("pandas", instead) from exc
        return pd.DataFrame(rows).set_index("task") if rows else pd.DataFrame()

    @property
    def ok(self) -> bool:
        """True if every task is done or was up to date."""
        return {"done", "up to date"}.issuperset(self.states())

    def __getitem__(self, name: str) -> TaskReport:
        """The task called ``name``; KeyError if there is none."""
        if isinstance(self.tasks, TaskReports):
            return self.tasks.named(name)
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)


_LAST_LINES = 10
_INPUTS = 3


class JobFailed(EncampError):
    """Some tasks failed. All other tasks are done and published; run again to continue."""

    report: JobReport

    def __str__(self) -> str:
        failed = list(self.report.of_state("failed"))
        names = ", ".join(printable(task.name) for task in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        tasks = "1 task" if len(failed) == 1 else f"{len(failed)} tasks"
        first = f"; {printable(failed[0].name)}: {shown(failed[0].why)}" if failed else ""
        return f"job {printable(self.report.name)}: {tasks} failed: {names}{more}{first}"

    def _in_notebook(self) -> str:
        from encamp.short_tracebacks import brief_log

        lines = [f"some tasks of {self.report}"]
        for task in islice(self.report.of_state("failed"), _LOGS_SHOWN):
            paths = [printable(one.path) for one in task.inputs[:_INPUTS]]
            more = len(task.inputs) + task.more_inputs - len(paths)
            paths += [f"and {more} more"] if more else []
            listed = [f"input: {', '.join(paths)}"] if paths else []
            listed += [f"folder: {task.kept}"] if task.kept else []
            listed += brief_log(task.log_tail, _LAST_LINES)
            lines += [f"  {printable(task.name)} | {line}" for line in listed]
        return "\n".join([*lines, "  in Python: sys.last_value.report, or job.report"])
