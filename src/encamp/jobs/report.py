"""The report of one run: report.json for programs, report.html for people, trace.json for Perfetto.

The trace follows the Trace Event Format
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from encamp.errors import BadJob
from encamp.jobs.page import candidates, page_of
from encamp.model import AttemptReport, JobReport, TaskReport
from encamp.storage.disk import disk_full
from encamp.storage.own_files import OwnFiles, OwnFolder

_MOST_LANES = 96
"""Where there are more workers than this, those that ran one after the other share a lane."""
_CLOCK_NOISE = 1e-6
"""Seconds by which an attempt may seem to start before the one before it has ended."""
_DEEPEST = 64


def write_report(report: JobReport, folder: Path, *, shared: bool = False) -> Path:
    """Write report.json, trace.json and report.html into ``folder``; return the page's path.

    Each file appears whole or not at all, in place of an older one. Odd names and values never
    stand in the way: what JSON cannot carry is written escaped. Raises `NotOurs`, `DiskFull`, or
    OSError where the folder cannot be written.
    """
    with OwnFolder(folder, shared).opened(make=True) as files:
        return _written(report, files)


def _written(report: JobReport, files: OwnFiles) -> Path:
    folder = files.path
    _replace(files, "report.json", _in_pieces(report))
    placed = _placed(report)
    _replace(files, "trace.json", _trace(report, placed))
    lanes = {id(one.attempt): one.lane for one in placed.attempts}
    shown = candidates(report.tasks)
    facts = _carried(replace(report, tasks=[report.tasks[at] for at in shown]))
    page = page_of(report, shown, facts, _carried(placed.lanes), lanes, folder)
    _replace(files, "report.html", [page])
    return folder / "report.html"


def _in_pieces(report: JobReport) -> Iterator[bytes]:
    """The report as JSON for people as well, a task at a time: there may be a million."""
    whole = msgspec.json.encode(_carried(replace(report, tasks=[])))
    head, tasks, tail = msgspec.json.format(whole, indent=2).partition(b'"tasks": []')
    yield head + (tasks if not report.tasks else b'"tasks": [')
    for number, task in enumerate(report.tasks):
        text = msgspec.json.format(_encoded(task), indent=2).replace(b"\n", b"\n    ")
        yield (b",\n    " if number else b"\n    ") + text
    yield (b"\n  ]" if report.tasks else b"") + tail


def _encoded(task: TaskReport) -> bytes:
    """A task as JSON; what msgspec does not take, or takes in another way, goes the long way."""
    with suppress(TypeError, ValueError, OverflowError):
        if task.value is None or type(task.value) in (str, float, bool):
            return msgspec.json.encode(task)
    return msgspec.json.encode(_carried(task))


def read_report(path: Path, *, shared: bool = False) -> JobReport:
    """The report in ``path``, a report.json.

    Raises `BadJob` if it is missing or broken, `NotOurs` if somebody else may have written it.
    """
    try:
        with OwnFolder(path.parent, shared).opened() as files:
            return msgspec.json.decode(files.read(path.name), type=JobReport)
    except OSError as exc:
        raise BadJob(str(path), f"cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadJob(str(path), f"is no report of a run: {exc}") from exc


def _replace(files: OwnFiles, name: str, pieces: Iterable[bytes]) -> None:
    size = 0
    try:
        with files.replacing(name) as file:
            for data in pieces:
                size += len(data)
                file.write(data)
    except OSError as exc:
        raise (disk_full(exc, files.path / name, size) or exc) from exc


def _carried(value: Any, above: tuple[int, ...] = ()) -> Any:
    """``value`` in JSON's own types: dataclasses as objects, undecodable text escaped."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        # Python refuses to write much longer numbers in decimal.
        return int(value) if value.bit_length() < 4096 else hex(value)
    if id(value) in above or len(above) > _DEEPEST:
        return "…"
    return _carried_parts(value, (*above, id(value)))


def _carried_parts(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, list | tuple):
        return [_carried(item, above) for item in value]
    if isinstance(value, dict):
        return {_escaped(str(key)): _carried(item, above) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        named = ((item.name, getattr(value, item.name, None)) for item in fields(value))
        return {name: _carried(part, above) for name, part in named}
    return _escaped(f"<{type(value).__name__}>")


def _escaped(text: str) -> str:
    """``text`` with undecodable bytes as ``\\xff``; lines and other control characters stay."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class _Lane:
    """A line of bars that do not overlap: one thing at a time that a worker did.

    ``slot`` counts the lanes of a worker that did several at once, else it is None. ``worker`` is
    None where a lane joins workers of its host.
    """

    host: str | None
    worker: str | None
    slot: int | None = None


@dataclass(frozen=True)
class _Placed:
    """An attempt, the lane that it is drawn in, and its times in seconds (equal if unknown)."""

    task: TaskReport
    attempt: AttemptReport
    lane: int
    start: float
    end: float


@dataclass(frozen=True)
class _Placing:
    lanes: list[_Lane]
    attempts: list[_Placed]


def _placed(report: JobReport) -> _Placing:
    """This run's attempts in lanes of their workers; where they overlap, in several.

    A slot's process says less: it is replaced after a kill, and may serve several workers.
    """
    groups = _groups(report)
    lanes: list[_Lane] = []
    attempts: list[_Placed] = []
    for lane, members in sorted(groups.items(), key=lambda item: _natural(item[0])):
        rows = list(_packed(members))
        attempts += [
            _Placed(task, attempt, len(lanes) + row, *_times(attempt))
            for row, task, attempt in rows
        ]
        count = 1 + max(row for row, _, _ in rows)
        lanes += [replace(lane, slot=row) for row in range(1, count + 1)] if count > 1 else [lane]
    return _Placing(lanes, attempts)


def _groups(report: JobReport) -> dict[_Lane, list[tuple[TaskReport, AttemptReport]]]:
    """This run's attempts by worker; by host where that would be too many lanes."""
    for workers in (True, False):
        groups = defaultdict(list)
        for task in report.tasks:
            for attempt in task.attempts if task.state != "up to date" else ():
                groups[_lane(attempt, workers=workers)].append((task, attempt))
        if len(groups) <= _MOST_LANES:
            break
    return groups


def _lane(attempt: AttemptReport, *, workers: bool) -> _Lane:
    if (where := attempt.where) is None:
        return _Lane(None, None)
    return _Lane(where.host, where.worker if workers else None)


def _packed(
    members: Iterable[tuple[TaskReport, AttemptReport]],
) -> Iterator[tuple[int, TaskReport, AttemptReport]]:
    """Each attempt with the first row that is free when it starts."""
    ends: list[float] = []
    for task, attempt in sorted(members, key=lambda member: _times(member[1])):
        start, end = _times(attempt)
        row = next((n for n, busy in enumerate(ends) if busy <= start + _CLOCK_NOISE), len(ends))
        ends[row : row + 1] = [end]
        yield row, task, attempt


def _times(attempt: AttemptReport) -> tuple[float, float]:
    """Start and end of an attempt; twice the time of its submission where no phase was told."""
    if not attempt.phases:
        return attempt.submitted, attempt.submitted
    return (
        min(phase.start for phase in attempt.phases),
        max(phase.start + phase.seconds for phase in attempt.phases),
    )


def _natural(lane: _Lane) -> tuple[Any, ...]:
    """Sort key: ``node-2`` before ``node-10``; attempts without a host last."""
    return (lane.host is None, *(_in_parts(text) for text in (lane.host, lane.worker)))


def _in_parts(text: str | None) -> list[tuple[int, str]]:
    words = re.findall(r"[0-9]{1,18}|[^0-9]+", text or "")
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]


def _trace(report: JobReport, placing: _Placing) -> Iterator[bytes]:
    """The trace as JSON, an event at a time."""
    about = ("name", "destination", "controller", "executor", "version", "started", "ended")
    facts = {name: str(getattr(report, name)) for name in about}
    yield b'{"displayTimeUnit":"ms","otherData":' + msgspec.json.encode(_carried(facts))
    between = b',"traceEvents":['
    for event in _events(report, placing):
        yield between + msgspec.json.encode(_carried(event))
        between = b","
    yield b"]}" if between == b"," else b',"traceEvents":[]}'


def _events(report: JobReport, placing: _Placing) -> Iterator[dict[str, Any]]:
    start = min([report.started, *(placed.start for placed in placing.attempts)])
    numbers = itertools.count(1)
    hosts = {host: next(numbers) for host in dict.fromkeys(lane.host for lane in placing.lanes)}
    lanes = [(hosts[lane.host], next(numbers)) for lane in placing.lanes]
    yield from _host_names(hosts)
    yield from _lane_names(placing.lanes, lanes)
    for placed in placing.attempts:
        pid, tid = lanes[placed.lane]
        for event in _attempt_events(placed, start):
            yield event | {"pid": pid, "tid": tid}


def _host_names(hosts: dict[str | None, int]) -> Iterator[dict[str, Any]]:
    for host, pid in hosts.items():
        name = {"name": host or "no host known"}
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": name}


def _lane_names(lanes: list[_Lane], numbers: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for order, (lane, (pid, tid)) in enumerate(zip(lanes, numbers, strict=True)):
        name = " / ".join(str(part) for part in (lane.worker, lane.slot) if part is not None)
        for kind, args in (
            ("thread_name", {"name": name or "all workers"}),
            ("thread_sort_index", {"sort_index": order}),
        ):
            yield {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _attempt_events(placed: _Placed, zero: float) -> Iterator[dict[str, Any]]:
    task, attempt = placed.task, placed.attempt
    event: dict[str, Any] = {"name": task.name, "cat": "failed" if attempt.error else "attempt"}
    event["args"] = {"state": task.state, "attempt": attempt.number} | {
        name: getattr(attempt, name)
        for name in ("bytes_mirrored", "bytes_shared", "cpu_seconds", "peak_memory", "error")
    }
    if not attempt.phases:
        yield event | {"ph": "i", "s": "t", "ts": _micros(placed.start - zero)}
        return
    yield event | _stretch(placed.start - zero, placed.end - zero)
    for phase in attempt.phases:
        times = _stretch(phase.start - zero, phase.start + phase.seconds - zero)
        yield {"name": phase.name, "cat": "phase", "args": {"task": task.name}} | times


def _stretch(start: float, end: float) -> dict[str, Any]:
    """Both ends are rounded, not the length, so that phases never stand out of their attempt."""
    ts = _micros(start)
    return {"ph": "X", "ts": ts, "dur": _micros(end) - ts}


def _micros(seconds: float) -> int:
    return round(seconds * 1e6) if math.isfinite(seconds) else 0
