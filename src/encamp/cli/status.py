"""``encamp status``: the state of the jobs in a destination, once or until they have ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live

from encamp.cli.print_answer import print_answer
from encamp.cli.read_job_status import StatusAndText, job_folders, status_of
from encamp.errors import BadJob, NotOurs, shown
from encamp.jobs.display.draw_progress import StatusView
from encamp.jobs.report.json_encoding import facts_json
from encamp.storage.disk.trusted_files import TrustedFolder

_PAUSE = 1.0
"""Seconds between two readings of the jobs' folders."""
_A_SECOND = 2
"""How often per second the display is drawn."""


def status_command(
    destination: Path, *, shared: bool = False, follow: bool = False, as_json: bool = False
) -> None:
    """Print the state of every job with a folder in ``destination``.

    With ``follow`` prints it again and again until none of them is running. If there is only one
    job, raises `NotOurs` if it may belong to another user, or `BadJob` if its report is broken.
    """
    folders = [TrustedFolder(folder, shared) for folder in job_folders(destination)]
    if follow:
        _follow(folders, as_json=as_json)
    elif as_json:
        states = facts_json([state.status for state in _states(folders, _warn)])
        print_answer(msgspec.json.format(states, indent=2).decode())
    if not as_json:
        for state in _states(folders):
            print_answer(*state.lines)


def _states(
    folders: list[TrustedFolder], report: Callable[[str], None] | None = None
) -> list[StatusAndText]:
    return list(_each_state(folders, report or print_answer))


def _each_state(
    folders: list[TrustedFolder], report: Callable[[str], None]
) -> Iterator[StatusAndText]:
    for own in folders:
        try:
            yield status_of(own)
        except (NotOurs, BadJob) as exc:
            if len(folders) == 1:
                raise
            report(str(exc))


def _follow(folders: list[TrustedFolder], *, as_json: bool) -> None:
    """Print the state of jobs until none of them is running."""
    console = Console(highlight=False)
    drawn = console.is_terminal and not as_json
    display = _Display()
    printed: dict[str, object] = {}
    with _shown(console, display) if drawn else nullcontext():
        while True:
            states = _states(folders, lambda _: None)
            display.note(states)
            going_on = any(state.is_run for state in states)
            if not drawn:
                _print_changes(states, printed, as_json=as_json)
                sys.stdout.flush()
            if not going_on:
                return
            time.sleep(_PAUSE)


def _shown(console: Console, display: _Display) -> Live:
    return Live(
        console=console,
        get_renderable=display.drawn,
        refresh_per_second=_A_SECOND,
        transient=True,
    )


def _print_changes(
    states: list[StatusAndText], printed: dict[str, object], *, as_json: bool
) -> None:
    """Print the state of jobs that have changed."""
    for state in states:
        status = state.status
        current = status.state, status.counts
        if printed.get(status.folder) == current or not (as_json or state.is_run):
            continue
        printed[status.folder] = current
        if as_json:
            print_answer(facts_json(status).decode())
        else:
            print_answer(*state.lines)


class _Display:
    """The display of the running jobs."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[StatusAndText, float]] = {}
        """A job's last state, and when it was read by this host's clock."""

    def note(self, states: list[StatusAndText]) -> None:
        """Update the states of the jobs."""
        before, now = self._seen, time.monotonic()
        self._seen = {}
        for state in states:
            folder = state.status.folder
            known = before.get(folder)
            same = known is not None and known[0].status.now == state.status.now
            if state.is_run:
                self._seen[folder] = known if known is not None and same else (state, now)

    def drawn(self) -> RenderableType:
        """The running jobs, one below the other."""
        now = time.monotonic()
        return Group(*(self._one(*seen, now) for seen in self._seen.values()))

    @staticmethod
    def _one(state: StatusAndText, taken: float, now: float) -> RenderableType:
        if state.status.tasks is None:
            return "\n".join(map(shown, state.lines))
        return StatusView(state.status, now - taken)


def _warn(line: str) -> None:
    """For people, where standard output is for programs."""
    print(shown(line), file=sys.stderr)  # noqa: T201
