"""The state of a run, drawn for a terminal: a bar, counts, times, and the running tasks."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from encamp.errors import printable, shown
from encamp.job_status import JobStatus, State
from encamp.units import clock_text, size_text

STYLES: dict[State, str] = {
    "done": "green",
    "failed": "bold red",
    "blocked": "yellow",
    "up to date": "dim",
    "to do": "cyan",
    "waiting": "dim",
    "running": "cyan",
}
_ORDER: tuple[State, ...] = ("running", "waiting", "done", "up to date", "failed", "blocked")
_MOST_RUNNING = 8
"""The number of running tasks that are named."""
_OTHER_LINES = 5
"""Lines of a terminal that are kept for the rest of the display and for output above it."""
_LONGEST_NAME = 24
_FOR_TIME = 28
"""Columns of a line that are not for the task's name."""


class StatusView:
    """The drawn state of a run; ``age`` is how many seconds old it is."""

    def __init__(self, status: JobStatus, age: float) -> None:
        self._status, self._now = status, status.now + age
        self._left = None if status.left is None else max(0.0, status.left - age)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(20, options.max_width - 1)
        yield self._bar(width)
        yield _fitting(self._times(), width)
        yield _fitting(self._counts(), width)
        room = console.size.height - _OTHER_LINES
        yield from self._running(width, max(0, min(_MOST_RUNNING, room)))

    def _bar(self, width: int) -> Table:
        status = self._status
        name = Text(printable(status.name), "bold")
        name.truncate(min(_LONGEST_NAME, width // 3), overflow="ellipsis")
        of = Text(f"{status.ended}/{status.tasks}")
        grid = Table.grid(expand=False)
        bar = ProgressBar(
            total=max(1, status.tasks or 1),
            completed=status.ended,
            width=max(2, width - name.cell_len - of.cell_len - 4),
        )
        grid.add_row(name, Text("  "), bar, Text("  "), of)
        return grid

    def _times(self) -> list[tuple[str, str]]:
        status = self._status
        parts = []
        if status.started is not None:
            parts.append((f"elapsed {clock_text(self._now - status.started)}", ""))
        if status.state == "stopping":
            parts.append(("stopping running tasks", "yellow"))
        elif self._left is not None:
            parts.append((f"about {clock_text(self._left)} left", ""))
        if status.bytes_mirrored:
            parts.append((f"{size_text(status.bytes_mirrored)} mirrored", ""))
        return parts

    def _counts(self) -> list[tuple[str, str]]:
        counts = self._status.counts
        parts = [(f"{counts[one]} {one}", STYLES[one]) for one in _ORDER if counts.get(one)]
        over = self._status.handed_over
        return [*parts, *([(f"{over} of them submitted", "dim")] if over else [])]

    def _running(self, width: int, most: int) -> Iterator[Text]:
        running, total = self._status.running, self._status.counts.get("running", 0)
        listed = running if total <= most else running[: max(0, most - 1)]
        names = [Text(printable(task.name), "cyan") for task in listed]
        longest = max((name.cell_len for name in names), default=0)
        for task, name in zip(listed, names, strict=True):
            name.truncate(min(longest, max(4, width - _FOR_TIME)), overflow="ellipsis", pad=True)
            again = f"  attempt {task.attempt}" if task.attempt > 1 else ""
            ran = clock_text(self._now - task.since)
            yield Text.assemble("  ", name, f"  {ran}{again}")
        if total > len(listed) and most:
            yield Text(f"  and {total - len(listed)} more", "dim")


def _fitting(parts: list[tuple[str, str]], width: int) -> Text:
    """The first of the parts, as many as fit on one line."""
    line = Text("  ")
    for text, style in parts:
        comma = "" if line.cell_len == 2 else ", "
        if line.cell_len + len(comma) + len(text) > width:
            break
        line.append(comma)
        line.append(shown(text), style)
    return line
