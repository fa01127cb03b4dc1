"""Checks the outputs that workers report as staged, before the controller touches it.

A worker runs arbitrary code on any host. A name that it reports is published, flushed or removed
only if the task's outputs can have that name, and if it was staged beside it for this run.
"""

from __future__ import annotations

from encamp.errors import BadDestination
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.storage.outputs.accepted_names import NOT_DECLARED
from encamp.storage.outputs.publish import final_name, staged_by


def check_staged(prepared: Prepared, name: str, outcome: Outcome, token: str, log: str) -> None:
    """Remove from an outcome what its task cannot have staged; it then counts as failed.

    ``token`` is the run's, ``log`` the final name of the attempt's log.
    """
    task, declared = prepared.job.tasks[name], prepared.declared
    claimed = outcome.staged
    if claimed:
        outcome.staged = [one for one in claimed if staged_by(one, token)]
    if outcome.rescued:
        outcome.rescued = [
            one
            for one in outcome.rescued
            if staged_by(one, token) and declared.allow(task.on_failure, final_name(one.final))
        ]
    if outcome.log is not None and not (
        staged_by(outcome.log, token) and final_name(outcome.log.final) == log
    ):
        outcome.log = None
    if outcome.error is not None:
        return
    for one in claimed:
        if not declared.allow(task.outputs, final := final_name(one.final)):
            outcome.error = BadDestination(final, NOT_DECLARED)
    if len(outcome.staged) < len(claimed):
        outcome.error = BadDestination(name, "its outputs do not belong to this run")
