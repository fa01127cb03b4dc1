"""How a job is to be run, where its script does not say: set by the command for scripts."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from encamp.jobs.progress import Progress
from encamp.jobs.work import Keep


@dataclass(frozen=True)
class Options:
    """``workers`` is for the default executor; None: one for each core that is ours."""

    workers: int | None = None
    force: bool = False
    dry_run: bool = False
    keep: Keep = "never"
    progress: Progress | None = None
    """None: a live display where standard error is a terminal, nothing elsewhere."""


current: ContextVar[Options] = ContextVar("encamp_options", default=Options())  # noqa: B039
"""What `Job.run` falls back to."""
