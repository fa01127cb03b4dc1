"""The reports of a run's tasks in little memory: each is built when it is needed.

Reports of finished tasks are read from the journal. The others are lines as in a journal,
compressed in blocks. What JSON cannot represent, such as an object that a step returned, is kept
beside the line.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import compress
from typing import Any, overload

import msgspec

from encamp.job_status import State
from encamp.jobs.journal.record import Record, decoded, encoded, has_odd
from encamp.jobs.journal.records_by_task import RecordsByTask
from encamp.jobs.progress_interface import Progress
from encamp.jobs.report.json_encoding import facts_json
from encamp.reports import TaskReport, TaskReports
from encamp.task_values import Scalar, as_json

_BLOCK = 64
"""Number of lines compressed together: similar lines shrink to an eighth of their size."""
_KEPT = 32
"""Blocks that are kept decompressed."""
UNCHANGED = "nothing changed"
"""Why a task that is up to date did not run."""
_WELL: tuple[State, ...] = ("done", "up to date")
_DIGEST = 32
"""Bytes of a digest."""
_WAITING = TaskReport("", "waiting", why="the run was stopped before this task was done")
_NO_VALUE = b'"value":null,"rescued":['
"""The beginning of the outputs in a line; parameters of this name would not be lists."""
_PLAIN = (str, bool, int, float)


class _Report(msgspec.Struct):
    report: msgspec.Raw


class _Valued(msgspec.Struct):
    value: Any = None
    not_kept: str = ""


class _ValuedLine(msgspec.Struct):
    report: _Valued | None = None


_VALUED = msgspec.json.Decoder(_ValuedLine)
_REPORT = msgspec.json.Decoder(_Report)
_EMPTY = msgspec.to_builtins(TaskReport("", "done"))
"""Fields that lines of older versions lack."""
_UP_TO_DATE = {"state": "up to date", "why": UNCHANGED}


class CompressedReports(TaskReports):
    """The reports of ended tasks among ``names``, in that order; the other tasks are waiting.

    ``done`` are the journal's records of finished tasks; ``parameters`` returns the current
    parameters of a task, which may differ from those when it was done.
    """

    def __init__(
        self,
        names: Iterable[str],
        done: RecordsByTask,
        parameters: Callable[[str], dict[str, Scalar]] = lambda _: {},
    ) -> None:
        self._records, self._parameters = done, parameters
        self.has_values = False
        """Whether the record of a finished task may have values."""
        self._done = 0
        self._names = tuple(names)
        self._ended: dict[str, State] = {}
        self._lines: dict[str, int] = {}
        """Task → the number of its line here, for those that are not in the journal."""
        self._blocks: list[bytes] = []
        self._open: list[bytes] = []
        self._values: dict[str, Any] = {}
        self._read: dict[int, list[bytes]] = {}
        """The lines of the blocks that were read last, since tasks do not end in order."""

    def add(self, report: TaskReport, line: bytes = b"") -> None:
        """Add a task that has ended, or would run; ``line`` is the record of a finished one."""
        value = report.value
        if value is not None and not (type(value) in _PLAIN and as_json(value) == value):
            self._values[report.name] = value
            report = replace(report, value=as_json(value))
        if report.state == "done":
            self._note_success(report.name, "done", line)
            return
        self._ended[report.name] = report.state
        self._lines[report.name] = len(self._lines)
        self._open.append(encoded(Record("ended", "", 0.0, report=report)))
        if len(self._open) == _BLOCK:
            self._blocks.append(zlib.compress(b"\n".join(self._open), 1))
            self._open = []

    def up_to_date(self, name: str, line: bytes) -> None:
        """Add a task that an earlier run has done; ``line`` is its record in the journal."""
        self._note_success(name, "up to date", line)

    def _note_success(self, name: str, state: State, line: bytes) -> None:
        self._ended[name] = state
        if _NO_VALUE not in line:
            self.has_values = True
            self._done += int.from_bytes(sha256(line).digest())

    def for_disk(self, known: Sequence[TaskReport] | None = None) -> Sequence[TaskReport]:
        """The same with values as JSON has them; a list if there are few.

        ``known`` are the reports of this object, if they have been read already.
        """
        if len(self._names) > _FEW:
            return self._with(_values={})
        reports = list(self) if known is None else known
        if not self._values:
            return reports
        return [
            replace(report, value=as_json(report.value)) if report.name in self._values else report
            for report in reports
        ]

    def as_list_if_few(self) -> Sequence[TaskReport]:
        """The reports as a list, or these if there are many; also after the journal is closed."""
        if len(self._names) > _FEW:
            return self._with(_records=self._records.kept())
        return list(map(self._of, self._names))

    def _with(self, **parts: object) -> CompressedReports:
        other = CompressedReports((), self._records)
        vars(other).update(vars(self) | parts)
        return other

    @property
    def done(self) -> bytes:
        """A digest of the records of finished tasks that may have values, whatever their order."""
        return (self._done % (1 << 8 * _DIGEST)).to_bytes(_DIGEST)

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return len(self._ended)

    def state(self, name: str) -> State:
        """The state of a task."""
        return self._ended.get(name, "waiting")

    def is_done(self, name: str) -> bool:
        """Whether the results of a task exist."""
        return self._ended.get(name) in _WELL

    def states(self) -> Iterator[State]:
        return iter([self._ended.get(name, "waiting") for name in self._names])

    def of_state(self, *states: State) -> Iterator[TaskReport]:
        chosen = map(states.__contains__, self.states())
        return map(self._of, compress(self._names, chosen))

    def named(self, name: str) -> TaskReport:
        if name not in self._ended and name not in self._names:
            raise KeyError(name)
        return self._of(name)

    def _of(self, name: str) -> TaskReport:
        """The report of a task that is known to be one of them."""
        if name not in self._ended:
            return replace(_WAITING, name=name)
        record = decoded(self._line(name))
        if record is None or record.report is None:  # only if the journal was edited
            return self._completed(name, TaskReport(name, self.state(name)))
        return self._completed(name, record.report)

    def valued(self, name: str) -> TaskReport:
        """The part of a task's report that its row in the table needs."""
        line = b"" if name in self._values else self._line(name)
        try:
            found = _VALUED.decode(line).report if not has_odd(line) else None
        except ValueError:
            found = None
        if found is None:
            return self._of(name)
        parameters, lost = self._parameters(name), found.not_kept
        value = found.value
        return TaskReport(name, "done", value=value, parameters=parameters, not_kept=lost)

    def _completed(self, name: str, report: TaskReport) -> TaskReport:
        if self._ended.get(name) == "up to date":
            now = self._parameters(name)
            return replace(report, state="up to date", why=UNCHANGED, parameters=now)
        return replace(report, value=self._values[name]) if name in self._values else report

    def _line(self, name: str) -> bytes:
        """The record of a task that has ended, empty if there is none."""
        if self._ended.get(name) in _WELL:
            return self._records.line(name) or b""
        if name not in self._lines:
            return b""
        block, row = divmod(self._lines[name], _BLOCK)
        if block == len(self._blocks):
            return self._open[row]
        lines = self._read.get(block)
        if lines is None:
            lines = zlib.decompress(self._blocks[block]).split(b"\n")
            self._read = dict([*self._read.items(), (block, lines)][-_KEPT:])
        return lines[row]

    def as_json(self) -> Iterator[bytes]:
        """Each report of those `for_disk` as report.json has it."""
        for name in self._names:
            line = self._line(name)
            yield (
                facts_json(self._of(name))
                if not line or has_odd(line)
                else self._in_line(name, line)
            )

    def _in_line(self, name: str, line: bytes) -> bytes:
        if self._ended[name] != "up to date":
            return bytes(_REPORT.decode(line).report)
        report = msgspec.json.decode(line)["report"]
        now = {**_UP_TO_DATE, "parameters": self._parameters(name)}
        return msgspec.json.encode(_EMPTY | report | now)

    @overload
    def __getitem__(self, at: int) -> TaskReport: ...
    @overload
    def __getitem__(self, at: slice) -> list[TaskReport]: ...
    def __getitem__(self, at: int | slice) -> TaskReport | list[TaskReport]:
        if isinstance(at, slice):
            return [self._of(name) for name in self._names[at]]
        return self._of(self._names[at])

    def __iter__(self) -> Iterator[TaskReport]:
        return map(self._of, self._names)

    def __len__(self) -> int:
        return len(self._names)


_FEW = 10_000
"""Reports of at most this many tasks are a list, which is easiest to use."""


def report_up_to_date(progress: Progress, name: str, reports: CompressedReports) -> None:
    """Report that a task is up to date; encamp's own displays need no report of the task."""
    if getattr(progress, "is_silent", False):
        return
    whole = getattr(progress, "wants_whole_reports", True)
    progress.ended(reports.named(name) if whole else TaskReport(name, "up to date", why=UNCHANGED))
