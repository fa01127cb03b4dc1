"""The facts of a run that the page of its report shows; ``draw_page.js`` draws all from them.

The page is ``page.html`` with its style, that script and these facts. It stays small enough for
browsers: if there are very many tasks, it shows some of them, and counts all.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Collection
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from encamp.errors import shortened
from encamp.jobs.report.json_encoding import facts_json, json_value
from encamp.jobs.report.task_sample import sample_of
from encamp.jobs.report.timeline import Lanes
from encamp.reports import JobReport, TaskReport
from encamp.task_values import rounded

_LARGEST = 5_000_000
"""Maximum number of bytes for the facts of all tasks on the page."""
_LONGEST_VALUE = 2000
_LONGEST_LOG = 16_000
_MOST_OUTPUTS = 100
"""Maximum number of outputs that are shown for a task."""
_MOST_ATTEMPTS = 20
"""Maximum number of attempts that are shown for a task; the last ones."""

Facts = dict[str, Any]
"""A report, or a part of it, in JSON's own types."""


def page_of(report: JobReport, lanes: Lanes, folder: Path, **more: object) -> bytes:
    """The page, which will be in ``folder``; ``more`` are facts that are not in the report."""
    facts: Facts = {**vars(report), **more}
    facts["href"] = _link(os.path.relpath(report.destination, folder))
    facts["lanes"] = lanes.lanes
    chosen = sample_of(
        range(len(report.tasks)),
        lanes.wrong,
        lambda at: _for_page(report.tasks[at], lanes.of(at), report, folder),
        _LARGEST,
    )
    facts["tasks"] = [msgspec.Raw(text) for text in chosen.values()]
    facts["left_out"] = _summed(report, lanes, chosen)
    facts["steps"], facts["published"] = _steps_and_published(report)
    before, between, after = _template()
    title = html.escape(json_value(report.name)).encode()
    return b"".join((before, title, between, _harmless(facts), after))


@cache
def _template() -> tuple[bytes, bytes, bytes]:
    """The page before its title, from there to its facts, and after these.

    With its hash, browsers accept only the page's own script; see CSP Level 3.
    """
    here = files("encamp.jobs.report")
    names = ("page.html", "page.css", "draw_page.js")
    page, style, script = (here.joinpath(name).read_bytes() for name in names)
    text = page.replace(b"@STYLE@", style).replace(b"@SCRIPT@", script)
    inside = text.partition(b"<script>")[2].partition(b"</script>")[0]
    own_hash = b64encode(hashlib.sha256(inside).digest())
    before, between, after = re.split(b"@TITLE@|@FACTS@", text.replace(b"@HASH@", own_hash))
    return before, between, after


def _summed(report: JobReport, lanes: Lanes, chosen: Collection[int]) -> Facts:
    """Sums over the tasks that the page does not show."""
    states: Counter[str] = Counter()
    busy: dict[str, float] = defaultdict(float)
    sums = dict.fromkeys(_SUMMED, 0.0)
    found, again, peak = 0, 0, 0
    for at, state in enumerate(lanes.states):
        if at in chosen:
            continue
        states[state] += 1
        again += lanes.tries[at] > 1
        for attempt in report.tasks[at].attempts if lanes.tries[at] else ():
            found += 1
            host = attempt.where.host if attempt.where is not None else ""
            busy[host] += sum([phase.seconds for phase in attempt.phases])
            peak = max(peak, attempt.peak_memory)
            for name in _SUMMED:
                sums[name] += getattr(attempt, name)
    facts = {"tasks": states.total(), "states": states, "attempts": found, "again": again}
    return {**facts, "busy": busy, **sums, "peak_memory": peak}


def _steps_and_published(report: JobReport) -> tuple[list[Facts], Facts]:
    """The times of each kind of step in all tasks that ran, and what they have published."""
    steps: dict[str, list[float]] = {}
    files, size = 0, 0
    for task in report.of_state("done", "failed"):
        for output in (*task.outputs, *task.rescued):
            if not output.kept:
                files, size = files + 1, size + output.size
        for attempt in task.attempts:
            for span in attempt.phases:
                kept = steps.setdefault(_step_name(span.name), [0, 0.0, 0.0])
                kept[0] += 1
                kept[1] += span.seconds
                kept[2] = max(kept[2], span.seconds)
    if len(steps) > _MOST_STEPS:
        longest = sorted(steps, key=lambda name: -steps[name][1])[:_MOST_STEPS]
        steps = {name: kept for name, kept in steps.items() if name in longest}
    shown = [
        {"name": name, "count": count, "total": total, "longest": most}
        for name, (count, total, most) in steps.items()
    ]
    return shown, {"files": files, "bytes": size}


@lru_cache(maxsize=1000)
def _step_name(label: str) -> str:
    """The common name of steps that differ in their arguments: the program of a command line."""
    if label in _PHASES:
        return label
    words = (word for word in label.split() if "=" not in word.rstrip("="))
    return next(words, label).rsplit("/", 1)[-1] or label


_PHASES = ("job prephase", "task prephase", "task postphase")
_MOST_STEPS = 40
"""Maximum number of kinds of steps that are shown; those that took longest."""
_SUMMED = ("cpu_seconds", "bytes_mirrored", "files_mirrored", "bytes_shared")


def _for_page(task: TaskReport, lanes: list[int], report: JobReport, folder: Path) -> bytes:
    """One task's facts for the page: with lanes and links, and long strings cut."""
    shown: Facts = msgspec.json.decode(facts_json(task))
    shown["href"] = None if task.log is None else _link(task.log)
    shown["log_tail"] = shown["log_tail"][-_LONGEST_LOG:]
    shown["why"] = shortened(shown["why"])
    for name in ("parameters", "not_kept", "inputs", "more_inputs"):
        if not shown[name]:
            del shown[name]
    if task.value is not None:
        shown["value"] = msgspec.json.encode(rounded(shown["value"])).decode()[:_LONGEST_VALUE]
    drawn: list[int | None] = [*lanes] or [None] * len(shown["attempts"])
    for facts, lane in zip(shown["attempts"], drawn, strict=True):
        facts["lane"] = lane
    shown["attempts"] = shown["attempts"][-_MOST_ATTEMPTS:]
    shown["made"] = len(shown["outputs"])
    shown["outputs"] = shown["outputs"][:_MOST_OUTPUTS]
    for output, link in zip(task.outputs, shown["outputs"], strict=False):
        path = os.path.join(report.destination, output.path)  # noqa: PTH118
        link["href"] = _link(os.path.relpath(path, folder))
    return _harmless(shown)


def _link(path: str) -> str | None:
    """A relative path as a link; the leading ``./`` and quoting keep it from naming a scheme."""
    try:
        return "./" + quote(path, errors="surrogateescape")
    except UnicodeEncodeError:
        return None


def _harmless(facts: Facts) -> bytes:
    """JSON that cannot end the script element that it stands in; ``<`` only occurs in strings."""
    data = facts_json(facts)
    return data.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
