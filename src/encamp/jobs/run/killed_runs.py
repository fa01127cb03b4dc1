"""Removes what killed and stopped runs, and attempts that were given up, left at a destination."""

from __future__ import annotations

import os
from contextlib import suppress

from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.run_lease import token_of, untidy_runs
from encamp.storage.disk.temporary_names import discard_leftovers
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.urls import is_url


def sweep(job: JobDefinition, folder: TrustedFolder) -> None:
    """Remove the temporary files and leases of untidy runs; ``folder`` is the job's own."""
    for file in untidy_runs(folder):
        with suppress(OSError):
            discard_parts(job, token_of(file), file.lstat().st_uid)
            file.unlink(missing_ok=True)


def discard_parts(job: JobDefinition, token: str, owner: int) -> None:
    """Remove temporary files of attempts that can neither remove nor publish them any more."""
    tasks = job.tasks.values()
    outputs = [output for task in tasks for output in (*task.outputs, *task.on_failure)]
    own = [output.to for output in outputs if not is_url(output.to)]
    tops = {job.to / os.path.expanduser(to) for to in own}
    discard_leftovers({*tops, job.folder / "logs"}, token, owner)
