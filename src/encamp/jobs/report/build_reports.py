"""Builds the reports of attempts, of tasks and of a run from what the run knows."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from encamp.errors import reason_of
from encamp.job_status import State
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.parameter_columns import parameters_of
from encamp.jobs.plan.name_changed_inputs import listed
from encamp.jobs.run_clock import Clock
from encamp.jobs.steps import Task
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.reports import AttemptReport, JobReport, TaskReport
from encamp.service_statistics import ServiceStatistics
from encamp.storage.inputs.mirror import Item
from encamp.storage.shared_folders import local
from encamp.task_values import MOST_KEPT, as_json
from encamp.units import size_text
from encamp.version import __version__

_MOST_ORDER = 20_000
"""Maximum number of dependencies between tasks in a report."""


class Attempted(Protocol):
    """A task with attempts, as the run knows it; see `SubmittedTask`."""

    number: int
    submitted: float
    why: str
    inputs: list[Item]
    attempts: list[AttemptReport]


def controller_here() -> str:
    """This process as the controller of a job."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def job_report(
    job: JobDefinition,
    tasks: Sequence[TaskReport],
    clock: Clock,
    executor: str,
    interrupted: bool,
    warnings: Sequence[str] = (),
    services: Sequence[ServiceStatistics] = (),
    after: Mapping[str, list[str]] | None = None,
    orphans: int = 0,
) -> JobReport:
    """The report of a run that ends now."""
    return JobReport(
        name=job.name,
        destination=str(job.to),
        folder=str(job.folder),
        started=clock.began,
        ended=clock.now(),
        controller=controller_here(),
        executor=executor,
        version=__version__,
        interrupted=interrupted,
        tasks=tasks,
        warnings=list(warnings),
        services=list(services),
        not_selected=len(job.tasks) - len(tasks),
        after=_order_of(after or {}),
        orphans=orphans,
    )


def _order_of(after: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The tasks that each one waits for, unless there are too many to report."""
    few = sum(map(len, after.values())) <= _MOST_ORDER
    return dict(after) if few else {}


def attempt_report(task: str, current: Attempted, outcome: Outcome) -> AttemptReport:
    """The report of one attempt."""
    error = outcome.error
    return AttemptReport(
        number=current.number,
        where=outcome.where,
        submitted=current.submitted,
        phases=outcome.phases,
        bytes_mirrored=outcome.bytes_mirrored,
        files_mirrored=outcome.files_mirrored,
        bytes_shared=outcome.bytes_shared,
        cpu_seconds=outcome.cpu_seconds,
        peak_memory=outcome.peak_memory,
        error=None if error is None else reason_of(error, task),
        error_type=None if error is None else type(error).__name__,
    )


def task_report(task: Task, state: State, current: Attempted, outcome: Outcome) -> TaskReport:
    """The report of a task, without its outputs."""
    log = None if outcome.log is None else f"logs/{local(outcome.log.final).name}"
    value = _unpickled(outcome.value)
    lost = value is not None and as_json(value) is None and not isinstance(value, float)
    return TaskReport(
        task.name,
        state,
        attempts=current.attempts,
        why=current.why if outcome.error is None else reason_of(outcome.error, task.name),
        log=log,
        log_tail=outcome.log_tail,
        kept=outcome.kept,
        value=value,
        parameters=parameters_of(task),
        inputs=(inputs := listed(current.inputs)),
        more_inputs=len(current.inputs) - len(inputs),
        not_kept=_kind(value, len(outcome.value or b"")) if lost else "",
    )


def _kind(value: object, size: int) -> str:
    """A description of a value that was not kept."""
    large = f", and has more than {size_text(MOST_KEPT)}" if size > MOST_KEPT else ""
    return f"{type(value).__name__}{large}"


def _unpickled(value: bytes | None) -> object:
    try:
        return None if value is None else pickle.loads(value)  # noqa: S301 - from our own worker
    except Exception:  # noqa: BLE001 - of a class that only the worker knows
        return None
