"""How to run a job, where its script does not say; the command sets these options for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from encamp.errors import UnknownOption
from encamp.jobs.display.progress import Progress
from encamp.jobs.worker.work import Keep


@dataclass
class Debugged:
    """The task of `encamp debug`."""

    task: str
    shell: bool = False
    """A shell also where steps are functions."""
    keep: bool = False
    others: list[str] = field(default_factory=list)
    """Tasks of jobs that the script would have run before."""


@dataclass(frozen=True)
class Options:
    """``workers``, ``engine`` and ``engine_options`` are for the slots that a job starts itself.

    ``workers`` None: a slot for each core.
    """

    workers: int | None = None
    force: bool = False
    dry_run: bool = False
    keep: Keep = "never"
    shared: bool = False
    progress: Progress | None = None
    """None: what suits the program, see `progress_here`."""
    engine: str = "local"
    engine_options: dict[str, Any] = field(default_factory=dict)
    retries: int | None = None
    """In place of what the job and its tasks say; None: as these say. So is the next one."""
    time_limit: float | None = None
    only: tuple[str, ...] = ()
    """Names and patterns of the tasks to run, with what these need; empty: all."""
    failed: bool = False
    """Only tasks that failed when they were last run, with what these need."""
    max_failures: int | None = None
    """How many tasks may fail until no more are begun."""
    for_script: bool = False
    """Whether `encamp run` runs a script, which a dry run ends where there is something to do."""
    debugged: Debugged | None = None
    """Nothing is run: the folder of this task is made, and looked into."""


current: ContextVar[Options] = ContextVar("encamp_options", default=Options())  # noqa: B039
"""What `Job.run` falls back to."""

_LIKE = 0.8
"""How like another a name is that was hardly meant for an engine, from 0 to 1."""


def check_spelling(names: Iterable[str], function: Callable[..., Any]) -> None:
    """Raise `UnknownOption` for a name that is a misspelt option of ``function``.

    Other names are options of an engine, which checks them.
    """
    from difflib import get_close_matches

    known = [
        one.name for one in signature(function).parameters.values() if one.kind == one.KEYWORD_ONLY
    ]
    for name in names:
        if get_close_matches(name, known, 1, _LIKE):
            raise UnknownOption(name, tuple(known))
