"""The trace of a run, for Perfetto.

It follows the Trace Event Format
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from encamp.jobs.carried import carried
from encamp.jobs.lanes import Lane, Lanes, times
from encamp.model import AttemptReport, JobReport, TaskReport


def trace(report: JobReport, lanes: Lanes) -> Iterator[bytes]:
    """The trace as JSON, an attempt at a time."""
    about = ("name", "destination", "controller", "executor", "version", "started", "ended")
    facts = {name: str(getattr(report, name)) for name in about}
    yield b'{"displayTimeUnit":"ms","otherData":' + msgspec.json.encode(carried(facts))
    between = b',"traceEvents":['
    for events in _events(lanes):
        yield between + _encoded(events)[1:-1]
        between = b","
    yield b"]}" if between == b"," else b',"traceEvents":[]}'


def _encoded(events: list[dict[str, Any]]) -> bytes:
    try:
        return msgspec.json.encode(events)
    except (TypeError, ValueError, OverflowError):  # odd names, as of files
        return msgspec.json.encode(carried(events))


def _events(lanes: Lanes) -> Iterator[list[dict[str, Any]]]:
    numbers = itertools.count(1)
    hosts = {host: next(numbers) for host in dict.fromkeys(lane.host for lane in lanes.lanes)}
    places = [(hosts[lane.host], next(numbers)) for lane in lanes.lanes]
    if names := [*_host_names(hosts), *_lane_names(lanes.lanes, places)]:
        yield names
    for task, attempt, lane in lanes.attempts():
        pid, tid = places[lane]
        yield list(_attempt_events(task, attempt, lanes.began, pid, tid))


def _host_names(hosts: dict[str | None, int]) -> Iterator[dict[str, Any]]:
    for host, pid in hosts.items():
        name = {"name": host or "no host known"}
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": name}


def _lane_names(lanes: list[Lane], numbers: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for order, (lane, (pid, tid)) in enumerate(zip(lanes, numbers, strict=True)):
        name = " / ".join(str(part) for part in (lane.worker, lane.slot) if part is not None)
        for kind, args in (
            ("thread_name", {"name": name or "all workers"}),
            ("thread_sort_index", {"sort_index": order}),
        ):
            yield {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _attempt_events(
    task: TaskReport, attempt: AttemptReport, zero: float, pid: int, tid: int
) -> Iterator[dict[str, Any]]:
    start, end = times(attempt)
    event: dict[str, Any] = {
        "name": task.name,
        "cat": "failed" if attempt.error else "attempt",
        "args": {
            "state": task.state,
            "attempt": attempt.number,
            "bytes_mirrored": attempt.bytes_mirrored,
            "bytes_shared": attempt.bytes_shared,
            "cpu_seconds": attempt.cpu_seconds,
            "peak_memory": attempt.peak_memory,
            "error": attempt.error,
        },
        "pid": pid,
        "tid": tid,
    }
    if not attempt.phases:
        yield event | {"ph": "i", "s": "t", "ts": _micros(start - zero)}
        return
    yield event | _stretch(start - zero, end - zero)
    for phase in attempt.phases:
        stretch = _stretch(phase.start - zero, phase.start + phase.seconds - zero)
        args = {"task": task.name}
        facts = {"name": phase.name, "cat": "phase", "args": args, "pid": pid, "tid": tid}
        yield facts | stretch


def _stretch(start: float, end: float) -> dict[str, Any]:
    """Both ends are rounded, not the length, so that phases never stand out of their attempt."""
    ts = _micros(start)
    return {"ph": "X", "ts": ts, "dur": _micros(end) - ts}


def _micros(seconds: float) -> int:
    return round(seconds * 1e6) if math.isfinite(seconds) else 0
