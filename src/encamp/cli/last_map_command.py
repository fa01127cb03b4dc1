"""The last command line of ``encamp map`` for a job, recorded in the job's folder."""

from __future__ import annotations

from contextlib import suppress

from encamp.errors import EncampError
from encamp.jobs.job import Job
from encamp.storage.disk.trusted_files import TrustedFolder

_NAME = "map.txt"
_MOST = 1 << 20
_SHOWN = 80


def other_line(job: Job, command: str, *, shared: bool) -> str | None:
    """The previous command line of the job, if it differs from ``command``."""
    with suppress(OSError, EncampError), _folder(job, shared).opened() as files:
        before = files.read(_NAME, _MOST).decode("utf-8", "replace")
        return None if before == _noted(command) else before
    return None


def warning_of(job: Job, before: str) -> str:
    """The warning for a command line that takes over the job of a different command line."""
    line = before if len(before) <= _SHOWN else f"{before[: _SHOWN - 1]}…"
    taken = {path.name.removesuffix(".job") for path in job.to.glob("*.job")}
    number = next(n for n in range(2, len(taken) + 3) if f"{job.name}-{n}" not in taken)
    return (
        f"the job {job.name} was created by another command, {line!r}; this one takes "
        f"over its results; to keep both, give this one a name: --name {job.name}-{number}"
    )


def note_line(job: Job, command: str, *, shared: bool) -> None:
    """Record the line of a job that has run, if possible."""
    with (
        suppress(OSError, EncampError),
        _folder(job, shared).opened() as files,
        files.replacing(_NAME, flush=False) as file,
    ):
        file.write(_noted(command).encode())


def _noted(command: str) -> str:
    return command.encode("utf-8", "replace").decode()[: _MOST // 4]


def _folder(job: Job, shared: bool) -> TrustedFolder:
    shared = shared or job.shared
    return TrustedFolder(job.true_folder(shared=shared), shared)
