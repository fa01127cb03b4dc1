"""How to run a job, unless its script sets it; the command sets these options for scripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

from encamp.errors import UnknownOption
from encamp.jobs.progress_interface import Progress
from encamp.jobs.worker.work_and_outcome import Keep


@dataclass
class Debugged:
    """The task of `encamp debug`."""

    task: str
    shell: bool = False
    """Whether to start a shell even if the steps are functions."""
    keep: bool = False
    others: list[str] = field(default_factory=list)
    """Tasks of the script's earlier jobs."""


@dataclass(frozen=True)
class RunOptions:
    """``slots``, ``engine`` and ``engine_options`` are for the slots that a job starts itself.

    ``slots`` None: one for each core.
    """

    slots: int | None = None
    force: bool = False
    dry_run: bool = False
    keep: Keep = "never"
    shared: bool = False
    progress: Progress | None = None
    """None for the default, see `progress_here`."""
    engine: str = "local"
    engine_options: dict[str, Any] = field(default_factory=dict)
    retries: int | None = None
    """Replaces the values of the job and its tasks unless None; ``time_limit`` does the same."""
    time_limit: float | None = None
    only: tuple[str, ...] = ()
    """Names and patterns of the tasks to run, with those that they need; empty for all."""
    failed: bool = False
    """Whether to run only tasks that failed in their last run, with those that they need."""
    max_failures: int | None = None
    """After this many failed tasks, no more are started."""
    for_script: bool = False
    """Whether `encamp run` runs a script; then a dry run ends it if a job has something to do."""
    debugged: Debugged | None = None
    """Run nothing, but create the folder of this task for debugging."""

    def overridden(self, **given: Any) -> RunOptions:
        """These options, with those in place that are given and not None."""
        return replace(self, **{name: it for name, it in given.items() if it is not None})


class _Current:
    """The options that `Job.run` uses by default, in all threads: a script may run jobs in any."""

    options = RunOptions()

    @contextmanager
    def during(self, options: RunOptions) -> Iterator[None]:
        """Use these in a block.

        They stay in use after it if threads that it has started may still run jobs.
        """
        threads = set(threading.enumerate())
        before, self.options = self.options, options
        try:
            yield
        finally:
            if all(one.daemon or one in threads for one in threading.enumerate()):
                self.options = before


current = _Current()

_LIKE = 0.8
"""Names with at least this similarity (0 to 1) count as misspelt, not as an engine's options."""


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
