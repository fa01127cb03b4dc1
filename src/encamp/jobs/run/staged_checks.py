"""Checks what workers claim to have staged, before the controller touches it."""

from __future__ import annotations

from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.worker.work_and_outcome import Outcome
from encamp.storage.outputs.accepted_names import accepted


def check_staged(prepared: Prepared, name: str, outcome: Outcome, token: str, log: str) -> None:
    """Remove from an outcome what its task cannot have staged; it then counts as failed.

    ``token`` is the run's, ``log`` the final name of the attempt's log.
    """
    task, allow = prepared.job.tasks[name], prepared.declared.allow
    if outcome.staged:
        outcome.staged, error = accepted(
            outcome.staged, token, lambda final: allow(task.outputs, final)
        )
        outcome.error = outcome.error or error
    if outcome.rescued:
        outcome.rescued, _ = accepted(
            outcome.rescued, token, lambda final: allow(task.on_failure, final)
        )
    if outcome.log is not None and accepted([outcome.log], token, log.__eq__).error is not None:
        outcome.log = None
