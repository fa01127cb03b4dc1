"""The report's page: `report.html` beside this file, with the facts of a run put in.

Everything that can be seen is built from those facts by the page's own script. A page has a size
that browsers open at once: of very many tasks it shows some, and tells the whole in numbers.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from encamp.errors import shortened
from encamp.model import JobReport, TaskReport

_LARGEST = 5_000_000
"""Bytes that the facts of all tasks may have on the page."""
_FOR_FAILURES = 0.6
"""What part of that tasks may take that failed or were tried again."""
_LOOKED_AT = 10_000
"""Tasks of each kind, failed and others, that are chosen from: more than there is room for."""
_LONGEST_VALUE = 2000
_LONGEST_LOG = 16_000
_MOST_OUTPUTS = 100
"""Outputs of one task that are shown."""
_MOST_ATTEMPTS = 20
"""Attempts of one task that are shown, the last ones."""

Facts = dict[str, Any]
"""A report, or a part of it, in JSON's own types."""


def page_of(
    report: JobReport,
    candidates: Sequence[int],
    facts: Facts,
    lanes: list[Facts],
    lane_of: dict[int, int],
    folder: Path,
) -> bytes:
    """The page; ``facts`` are those of the report with these tasks, and changed here.

    ``lane_of`` tells the lane of an attempt by its `id`, ``folder`` is where the page will be.
    """
    facts["href"] = _link(os.path.relpath(report.destination, folder))
    facts["lanes"] = lanes
    tasks = [report.tasks[at] for at in candidates]
    for task, shown in zip(tasks, facts["tasks"], strict=True):
        _for_page(task, shown, lane_of)
        for output, link in zip(task.outputs, shown["outputs"], strict=False):
            path = Path(report.destination, output.path)
            link["href"] = _link(os.path.relpath(path, folder))
    chosen = _chosen(tasks, facts["tasks"])
    there = {candidates[at] for at in chosen}
    left_out = [task for at, task in enumerate(report.tasks) if at not in there]
    facts["tasks"] = [facts["tasks"][at] for at in sorted(chosen)]
    facts["left_out"] = _summed(left_out)
    template = files("encamp.jobs").joinpath("report.html").read_text("utf-8")
    title, script = html.escape(facts["name"]), _hash_of_script(template)
    parts = {"TITLE": title, "FACTS": _harmless(facts), "SCRIPT": script}
    return re.sub(r"@(TITLE|FACTS|SCRIPT)@", lambda match: parts[match[1]], template).encode()


def _hash_of_script(template: str) -> str:
    """By which browsers know the page's own script, and run no other; see CSP Level 3."""
    script = template.partition("<script>")[2].partition("</script>")[0]
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()


def candidates(tasks: Sequence[TaskReport]) -> list[int]:
    """Which tasks may be on the page: of very many more than it has room for, but not all."""
    if len(tasks) <= 2 * _LOOKED_AT:
        return list(range(len(tasks)))
    wrong = [at for at, task in enumerate(tasks) if _went_wrong(task)]
    spread = range(0, len(tasks), len(tasks) // _LOOKED_AT)
    return sorted({*wrong[:_LOOKED_AT], *spread})


def _chosen(tasks: list[TaskReport], shown: list[Facts]) -> set[int]:
    """Which tasks are shown: as many of those that went wrong, and others evenly spread."""
    sizes = [len(_harmless(facts).encode()) for facts in shown]
    wrong = [at for at, task in enumerate(tasks) if _went_wrong(task)]
    chosen = set(_fitting(wrong, sizes, _LARGEST * (_FOR_FAILURES if _is_too_much(sizes) else 1)))
    left = _LARGEST - sum(sizes[at] for at in chosen)
    others = [at for at in range(len(tasks)) if at not in chosen]
    total = sum(sizes[at] for at in others)
    step = -(-total // max(1, left))  # rounded up
    spread = others[:: max(1, step)]
    return chosen.union(_fitting(spread, sizes, left))


def _is_too_much(sizes: list[int]) -> bool:
    return sum(sizes) > _LARGEST


def _fitting(of: Iterable[int], sizes: list[int], room: float) -> list[int]:
    """As many as there is room for, one after the other; a large one may be passed over."""
    found = []
    for at in of:
        if sizes[at] <= room:
            found.append(at)
            room -= sizes[at]
    return found


def _went_wrong(task: TaskReport) -> bool:
    return task.state == "failed" or (task.state != "up to date" and len(task.attempts) > 1)


def _summed(tasks: list[TaskReport]) -> Facts:
    """What the page needs to know of tasks that it does not show."""
    attempts = [one for task in tasks if task.state != "up to date" for one in task.attempts]
    busy: dict[str, float] = defaultdict(float)
    for attempt in attempts:
        host = attempt.where.host if attempt.where is not None else ""
        busy[host] += sum(phase.seconds for phase in attempt.phases)
    return {
        "tasks": len(tasks),
        "states": Counter(task.state for task in tasks),
        "attempts": len(attempts),
        "again": sum(task.state != "up to date" and len(task.attempts) > 1 for task in tasks),
        "busy": busy,
        "cpu_seconds": sum(attempt.cpu_seconds for attempt in attempts),
        "bytes_mirrored": sum(attempt.bytes_mirrored for attempt in attempts),
        "files_mirrored": sum(attempt.files_mirrored for attempt in attempts),
        "bytes_shared": sum(attempt.bytes_shared for attempt in attempts),
        "peak_memory": max((attempt.peak_memory for attempt in attempts), default=0),
    }


def _for_page(task: TaskReport, shown: Facts, lane_of: dict[int, int]) -> None:
    """Make one task's facts ready for the page: lanes and links in, what is long cut."""
    shown["href"] = None if task.log is None else _link(task.log)
    shown["log_tail"] = shown["log_tail"][-_LONGEST_LOG:]
    shown["why"] = shortened(shown["why"])
    if task.value is not None:
        shown["value"] = msgspec.json.encode(shown["value"]).decode()[:_LONGEST_VALUE]
    for attempt, facts in zip(task.attempts, shown["attempts"], strict=True):
        facts["lane"] = lane_of.get(id(attempt))
    shown["attempts"] = shown["attempts"][-_MOST_ATTEMPTS:]
    shown["made"] = len(shown["outputs"])
    shown["outputs"] = shown["outputs"][:_MOST_OUTPUTS]


def _link(path: str) -> str | None:
    """A relative path as a link; the leading ``./`` and quoting keep it from naming a scheme."""
    try:
        return "./" + quote(path, errors="surrogateescape")
    except UnicodeEncodeError:
        return None


def _harmless(facts: Facts) -> str:
    """JSON that cannot end the script element that it stands in; ``<`` only occurs in strings."""
    data = msgspec.json.encode(facts).decode()
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
