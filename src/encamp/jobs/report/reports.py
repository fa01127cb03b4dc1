"""The reports of a run's tasks, kept small: those of a million tasks take some 200 megabytes.

Each is a line of JSON, as the journal has it. Lines are compressed some at a time, and a report is
made of its line when somebody asks for it. What a line cannot carry, as the object that a step
returned, is kept beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, get_args, overload

import msgspec

from encamp.jobs.display.progress import Progress
from encamp.jobs.journal import Record, decoded, encoded, has_odd
from encamp.jobs.report.carried import task_json
from encamp.model import State, TaskReport, TaskReports
from encamp.values import Scalar, as_json

_BLOCK = 64
"""Lines that are compressed together: alike as they are, to an eighth of their size."""
_KEPT = 32
"""Blocks that are kept as they were read."""
_STATES: tuple[State, ...] = get_args(State)
_NUMBERS = {state: number for number, state in enumerate(_STATES)}
UNCHANGED = "nothing changed"
"""Why a task that is up to date did not run."""
_WELL: tuple[State, ...] = ("done", "up to date")
_DIGEST = 32
"""Bytes of a digest."""
_WAITING = TaskReport("", "waiting", why="the run was stopped before it was done")
_NO_VALUE = b'"value":null,'
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
"""What is not in lines that older versions have written."""
_UP_TO_DATE = {"state": "up to date", "why": UNCHANGED}


class Reports(TaskReports):
    """What has ended of the tasks called ``names``; the rest is waiting. Ordered as the names.

    ``parameters`` are those that a task has now, whatever it had when it was done.
    """

    def __init__(
        self,
        names: Iterable[str],
        parameters: Callable[[str], dict[str, Scalar]] = lambda _: {},
    ) -> None:
        self._parameters = parameters
        self.has_values = False
        """Whether a task may have one."""
        self._done = 0
        self._names = tuple(names)
        self._at: dict[str, int] = {}
        """Task → the number of its line."""
        self._states = bytearray()
        self._blocks: list[bytes] = []
        self._open: list[bytes] = []
        self._values: dict[str, Any] = {}
        self._read: dict[int, list[bytes]] = {}
        """The lines of the blocks that were read last: tasks do not end in their order."""
        self._made: dict[str, TaskReport] | None = None
        """Those that were asked for, where they are kept."""

    def add(self, report: TaskReport, line: bytes | None = None) -> None:
        """A task has ended; ``line`` is its record in the journal, if it has one there."""
        value = report.value
        if value is not None and not (type(value) in _PLAIN and as_json(value) == value):
            self._values[report.name] = value
            report = replace(report, value=as_json(value))
        line = line or encoded(Record("ended", "", 0.0, report=report))
        self._add(report.name, line, report.state)

    def up_to_date(self, name: str, line: bytes) -> None:
        """A task is done by an earlier run; ``line`` is its record in the journal."""
        self._add(name, line, "up to date")

    def _add(self, name: str, line: bytes, state: State) -> None:
        self._at[name] = len(self._states)
        if state in _WELL:
            self._done += int.from_bytes(sha256(line).digest())
        self.has_values = self.has_values or _NO_VALUE not in line
        self._states.append(_NUMBERS[state])
        self._open.append(line.rstrip(b"\n"))
        if len(self._open) == _BLOCK:
            self._blocks.append(zlib.compress(b"\n".join(self._open), 1))
            self._open = []

    def for_disk(self) -> Reports:
        """The same with values only as JSON has them; what is not very many is read only once."""
        other = Reports(())
        vars(other).update(vars(self))
        other._values = {}
        other._made = {} if len(self) <= _FEW else None
        return other

    @property
    def done(self) -> bytes:
        """Tells one set of records of tasks that are done from another, whatever their order."""
        return (self._done % (1 << 8 * _DIGEST)).to_bytes(_DIGEST)

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return len(self._states)

    def state(self, name: str) -> State:
        """The state of a task."""
        number = self._at.get(name)
        return "waiting" if number is None else _STATES[self._states[number]]

    def states(self) -> Iterator[State]:
        return map(self.state, self._names)

    def of_state(self, *states: State) -> Iterator[TaskReport]:
        return (self._of(name) for name in self._names if self.state(name) in states)

    def named(self, name: str) -> TaskReport:
        if name not in self._at and name not in self._names:
            raise KeyError(name)
        return self._of(name)

    def _of(self, name: str) -> TaskReport:
        """The report of a task that is known to be one of them."""
        if self._made is None:
            return self._read_of(name)
        if name not in self._made:
            self._made[name] = self._read_of(name)
        return self._made[name]

    def _read_of(self, name: str) -> TaskReport:
        number = self._at.get(name)
        if number is None:
            return replace(_WAITING, name=name)
        record = decoded(self._line(number))
        if record is None or record.report is None:  # only by somebody else's hand
            return self._completed(name, TaskReport(name, self.state(name)))
        return self._completed(name, record.report)

    def valued(self, name: str) -> TaskReport:
        """The report of a task as far as its row in the table needs it."""
        number = self._at.get(name)
        line = b"" if number is None or name in self._values else self._line(number)
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
        state = self.state(name)
        if state == "up to date":
            parameters = self._parameters(name)
            return replace(report, state=state, why=UNCHANGED, parameters=parameters)
        return replace(report, value=self._values[name]) if name in self._values else report

    def _line(self, number: int) -> bytes:
        block, row = divmod(number, _BLOCK)
        if block == len(self._blocks):
            return self._open[row]
        lines = self._read.get(block)
        if lines is None:
            lines = zlib.decompress(self._blocks[block]).split(b"\n")
            self._read = dict([*self._read.items(), (block, lines)][-_KEPT:])
        return lines[row]

    def as_json(self) -> Iterator[bytes]:
        """Each report as report.json has it, with its value as JSON has it."""
        for name in self._names:
            number = self._at.get(name)
            line = b"" if number is None else self._line(number)
            yield (
                task_json(self._of(name))
                if not line or has_odd(line)
                else self._in_line(name, line)
            )

    def _in_line(self, name: str, line: bytes) -> bytes:
        if self.state(name) != "up to date":
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
"""Reports of no more tasks than these are a list, which is what is easiest to work with."""


def as_list_if_few(reports: Reports) -> Sequence[TaskReport]:
    """The reports in the form that is best for their number."""
    return reports if len(reports) > _FEW else list(reports)


def tell_up_to_date(progress: Progress, name: str, reports: Reports) -> None:
    """A task is up to date: what no one looks at of its report is not made for our own displays."""
    if getattr(progress, "is_silent", False):
        return
    whole = getattr(progress, "wants_whole_reports", True)
    progress.ended(reports.named(name) if whole else TaskReport(name, "up to date", why=UNCHANGED))
