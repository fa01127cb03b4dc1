"""The trace of a run, for Perfetto.

It follows the Trace Event Format
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

from __future__ import annotations

import math
from typing import Any

from encamp.jobs.report.json_encoding import facts_json
from encamp.jobs.report.task_sample import sample_of
from encamp.jobs.report.timeline import Lane, Lanes, times
from encamp.reports import AttemptReport, JobReport, TaskReport

_LARGEST = 20_000_000
"""Maximum size in bytes of the events of all attempts: viewers open that much quickly."""
_NO_HOST = "unknown host"


def trace(report: JobReport, lanes: Lanes) -> list[bytes]:
    """The trace as JSON; of very many tasks it has some, and a note about the others."""
    about = ("name", "destination", "controller", "executor", "version", "started", "ended")
    facts = {name: str(getattr(report, name)) for name in about}
    hosts: dict[str | None, int] = {}
    for lane in lanes.lanes:
        hosts.setdefault(lane.host, len(hosts) + 1)
    places = [(hosts[lane.host], n) for n, lane in enumerate(lanes.lanes, len(hosts) + 1)]
    """The numbers of each lane's host and of itself."""
    names = [
        _metadata_event("process_name", n, 0, name=host or _NO_HOST) for host, n in hosts.items()
    ]
    names += _lane_names(lanes.lanes, places)
    ran = [at for at, tries in enumerate(lanes.tries) if tries]
    wrong = [at for at in lanes.wrong if lanes.tries[at]]
    chosen = sample_of(ran, wrong, lambda at: _of_task(report, lanes, at, places), _LARGEST)
    pieces = [facts_json(names)[1:-1]] if names else []
    if len(chosen) < len(ran):
        text = f"{len(chosen)} of {len(ran)} tasks that ran; all are in report.json"
        facts["shown"] = text
        pieces.append(facts_json([_remark(text)])[1:-1])
    head = b'{"displayTimeUnit":"ms","otherData":' + facts_json(facts)
    events = b",".join([*pieces, *chosen.values()])
    return [head, b',"traceEvents":[', events, b"]}"]


def _of_task(report: JobReport, lanes: Lanes, at: int, places: list[tuple[int, int]]) -> bytes:
    task = report.tasks[at]
    tries = zip(task.attempts, lanes.of(at), strict=True)
    events = [
        event
        for attempt, lane in tries
        for event in _attempt_events(task, attempt, lanes.began, *places[lane])
    ]
    return facts_json(events)[1:-1]


def _remark(text: str) -> dict[str, Any]:
    """An event that is drawn across the whole timeline, at its beginning."""
    return {"name": text, "cat": "remark", "ph": "i", "s": "g", "ts": 0, "pid": 0, "tid": 0}


def _metadata_event(kind: str, pid: int, tid: int, **args: object) -> dict[str, Any]:
    """An event that describes a host or a lane."""
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _lane_names(lanes: list[Lane], numbers: list[tuple[int, int]]) -> list[dict[str, Any]]:
    events = []
    for order, (lane, (pid, tid)) in enumerate(zip(lanes, numbers, strict=True)):
        name = lane.worker or "all workers"
        name = name if lane.slot is None else f"{name} / {lane.slot}"
        events.append(_metadata_event("thread_name", pid, tid, name=name))
        events.append(_metadata_event("thread_sort_index", pid, tid, sort_index=order))
    return events


def _attempt_events(
    task: TaskReport, attempt: AttemptReport, zero: float, pid: int, tid: int
) -> list[dict[str, Any]]:
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
    stretches = [(event, start, end)]
    for phase in attempt.phases:
        args = {"task": task.name}
        facts = {"name": phase.name, "cat": "phase", "args": args, "pid": pid, "tid": tid}
        stretches.append((facts, phase.start, phase.start + phase.seconds))
    events = _stretched(stretches, zero)
    if not attempt.phases:
        event |= {"ph": "i", "s": "t"}
        del event["dur"]
    return events


def _stretched(
    stretches: list[tuple[dict[str, Any], float, float]], zero: float
) -> list[dict[str, Any]]:
    """Events with start and length in whole microseconds.

    Start and end of each are rounded, so phases stay in their attempts.
    """
    events = []
    for event, start, end in stretches:
        known = math.isfinite(start + end)
        first = round((start - zero) * 1e6) if known else 0
        last = round((end - zero) * 1e6) if known else 0
        event |= {"ph": "X", "ts": first, "dur": last - first}
        events.append(event)
    return events
