"""``status.json`` in a job's folder: the state of a running job, for all who see the folder.

It is removed when the report of the run is written.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from encamp.errors import NotOurs
from encamp.job_status import JobStatus
from encamp.jobs.report.json_encoding import facts_json
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder

NAME = "status.json"
WRITTEN_EVERY = 2.0
"""Minimum number of seconds between two states in the file."""
_MOST = 1 << 24


def write_status(status: JobStatus, folder: TrustedFolder) -> None:
    """Write the state of the run. Raises `NotOurs`, or OSError from the disk."""
    with folder.opened() as files, files.replacing(NAME, flush=False) as file:
        file.write(facts_json(status))


def left_by_a_killed_run(files: TrustedFiles) -> bool:
    """Whether a run has ended without a report, so that its page may still show it as running."""
    try:
        files.status(NAME)
    except OSError:
        return False
    return True


def last_status(folder: TrustedFolder) -> JobStatus | None:
    """The last written state of a run; None if there is none."""
    with suppress(OSError, ValueError, RecursionError, NotOurs), folder.opened() as files:
        return msgspec.json.decode(files.read(NAME, _MOST), type=JobStatus)
    return None
