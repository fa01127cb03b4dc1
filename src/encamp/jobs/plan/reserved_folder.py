"""The folder that is reserved for a job itself (journal, report, logs): never output or input.

The path of an output and the pattern of job folders' names are known before a run
(``*.job``). If an output could get into the folder by a name that its task has yet to choose, this
is checked when the output exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

from encamp.errors import BadDestination, UnusableInput
from encamp.jobs.job_definition import SUFFIX, JobDefinition
from encamp.jobs.journal.journal_file import NAME
from encamp.storage.disk.one_name import one_name
from encamp.storage.inputs.globs import escape, is_glob, may_meet
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.possible_paths import BELOW, Reach, read_by
from encamp.storage.urls import is_url

_MIRROR = attrgetter("mirror")
_FOR_OUTPUTS = "it is in the job's own folder, which holds its journal and report"
_FOR_ANOTHERS = "it is in the folder of another job, which holds that job's journal and report"
_FOR_INPUTS = (
    "it is the job's own folder, or in it, and every run of the job writes there; "
    "only its logs can be mirrored"
)


def check_reserved_folder(
    job: JobDefinition, outputs: Iterable[Output], reach: Callable[[Output], Reach]
) -> None:
    """Raise `BadDestination` or `UnusableInput` for a path that names the job's own folder.

    ``outputs`` are those of all tasks, and ``reach`` returns where each of them may lead.
    """
    own = Path(one_name(job.folder)).parts
    for output in outputs:
        if _leads_into(reach(output), own):
            place = output.to if is_url(output.to) else str(job.to / output.to)
            raise BadDestination(place, _FOR_OUTPUTS)
    near = (os.path.join(*own), os.path.join(*own[:-1]))  # noqa: PTH118 - to compare with text
    real = lru_cache(maxsize=1024)(one_name)
    for mirrors in (job.mirror, *map(_MIRROR, job.tasks.values())):
        for mirror in mirrors:
            if job.name in mirror.pattern and not _is_elsewhere(mirror.pattern, job, near, real):
                start = read_by(mirror, job.base).start
                if start == own or (start[:-1] == own and start[-1] != "logs"):
                    raise UnusableInput(mirror.pattern, _FOR_INPUTS)


def _is_elsewhere(
    pattern: str, job: JobDefinition, near: tuple[str, str], real: Callable[[str], str]
) -> bool:
    """Whether a pattern clearly names neither the job's folder nor anything in it.

    ``near`` are that folder and its parent. A quick answer for a million files in few folders.
    """
    if is_glob(pattern) or is_url(pattern):
        return False
    path = os.path.abspath(job.base / os.path.expanduser(pattern))
    return real(os.path.dirname(path)) not in near and not os.path.islink(path)  # noqa: PTH114, PTH120


def _leads_into(reach: Reach, own: tuple[str, ...]) -> bool:
    """Whether an output with this path would be in the job's folder, or in a folder like it."""
    depth = len(reach.start)
    if reach.start[: len(own)] == own:
        return True
    if reach.start != own[:depth]:
        return False
    name = next((name for name in reversed(reach.rest) if name != BELOW), "")
    if depth == len(own) - 1 and name == own[-1]:
        return True
    meant = _WILDCARD.split(name)[-1].endswith(SUFFIX)
    return meant and may_meet(reach.rest, tuple(map(escape, own[depth:])))


_WILDCARD = re.compile(r"[*?\]]")


class ReservedFolder:
    """Checks that no output gets a name in the folder of this job, or of another one."""

    def __init__(self, folder: Path) -> None:
        self._real = one_name(folder)
        self._name = lru_cache(maxsize=1024)(one_name)

    def check(self, final: str) -> None:
        """Raise `BadDestination` for such a final name."""
        above, name = os.path.split(final)
        real = final if is_url(final) else os.path.join(self._name(above), name)  # noqa: PTH118
        if real == self._real or real.startswith(f"{self._real}/"):
            raise BadDestination(final, _FOR_OUTPUTS)
        if f"{SUFFIX}/" in final and any(map(_is_jobs, Path(final).parents)):
            raise BadDestination(final, _FOR_ANOTHERS)


def _is_jobs(folder: Path) -> bool:
    """Whether a job has its journal there."""
    return folder.name.endswith(SUFFIX) and (folder / NAME).exists()
