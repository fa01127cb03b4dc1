"""The outcome of an attempt: what its worker has returned, or what is known if it was lost."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future

from encamp.attempt_facts import Span, Where
from encamp.errors import TaskLost, reason
from encamp.jobs.run.submitted_attempts import Submissions
from encamp.jobs.run_clock import Clock
from encamp.jobs.worker.supervise_attempt import Abandoned
from encamp.jobs.worker.work_and_outcome import Outcome

_CANCELLED = "it was cancelled before it started, or its executor was shut down"


class AttemptOutcomes:
    """The outcomes of a run's attempts; remembers their workers, to report those that were lost."""

    def __init__(self, submissions: Submissions, clock: Clock) -> None:
        self._submissions, self._clock = submissions, clock
        self._free: dict[tuple[str, str], float] = {}
        """When the last attempt of each worker has ended."""

    def of(
        self, task: str, future: Future[Outcome], submitted: float, *, stopping: bool
    ) -> Outcome:
        """The outcome in a future that has ended; ``stopping`` if the run itself cancels them."""
        try:
            raised = future.exception()
        except CancelledError:
            if not stopping:
                self._submissions.see_cancelled()
            over = self._submissions.over is not None
            return Outcome(error=Abandoned(_CANCELLED), lost=over)
        if raised is None:
            return future.result()
        if isinstance(raised, TaskLost):  # our own cluster has noticed the loss of its host
            outcome = self._lost(future, raised.with_facts(task=task), submitted)
            outcome.lost = raised.exit_code is None  # otherwise its process ended on its own
            return outcome
        # Executors may raise anything, such as a worker's Ctrl-C.
        gone = TaskLost(task, "its host", None, reason(raised))
        return self._lost(future, gone, submitted)

    def note(self, where: Where | None) -> None:
        """Record that an attempt has ended at a worker."""
        if where is not None:
            self._free[where.host, where.worker] = self._clock.now()

    def _lost(self, future: Future[Outcome], error: TaskLost, submitted: float) -> Outcome:
        """A lost attempt, as far as the cluster's future describes it.

        It cannot have started before its worker was free.
        """
        host, slot = getattr(future, "host", None), getattr(future, "slot", None)
        where = None if host is None else Where(host, f"slot-{slot}", 0)
        worker = (host or "", f"slot-{slot}")
        began = max(submitted, self._free.get(worker, 0.0))
        lost = Span("lost", began, max(0.0, self._clock.now() - began))
        return Outcome(where=where, phases=[lost], error=error)
