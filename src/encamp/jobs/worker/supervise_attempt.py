"""Supervises the slot that runs an attempt, in a worker of the executor.

A job submits `supervise_attempt` to its executor, whichever that is.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encamp.attempt_facts import Span, Where
from encamp.errors import EncampError, Stopped, TaskLost
from encamp.jobs.run_interrupts import ended_in_order
from encamp.jobs.run_lease import LeaseWatch
from encamp.jobs.worker.check_time_limits import TimeLimits
from encamp.jobs.worker.log import limit_log, log_file, stage_log, tail_of
from encamp.jobs.worker.resource_usage import ResourceUsage
from encamp.jobs.worker.run_phases import AttemptNote, StepBegins, run_phases
from encamp.jobs.worker.slots import Done, SlotLost, slots_here
from encamp.jobs.worker.work_and_outcome import Outcome, Work
from encamp.jobs.worker.worker_name import worker_name
from encamp.services.step_questions import StepQuestion
from encamp.slot.current_task import ask_here
from encamp.storage.dead_owners import reclaim
from encamp.storage.disk.network_delay import sees
from encamp.storage.files_by_request import IsOver, SpawnersFiles
from encamp.storage.folder_life import end_dead, rescue_dead
from encamp.storage.placing.modes import needs_own_mounts
from encamp.wire.pickling import NotImportable

if TYPE_CHECKING:
    from encamp.services.step_client import Relays

TICK = 0.2
"""Seconds between checks of time limits and the lease."""


_ASK = 1.0
"""Seconds between questions whether the run continues."""
_TERMINATED = "another process, or its own code, sent it SIGTERM"


class Abandoned(EncampError):
    """Raised when the run has ended, or the attempt was cancelled."""

    why: str = "it was cancelled, or its job's folder was removed"

    def __str__(self) -> str:
        return self.why


def supervise_attempt(work: Work) -> Outcome:
    """Run one attempt in a slot of this process and wait for it.

    Errors are in the outcome, since some executors wrap exceptions. Raises only errors that the
    slot itself cannot handle.
    """
    return ended_in_order(_supervise, work)


def _supervise(work: Work) -> Outcome:
    supervisor = _Supervisor(work)
    try:
        supervisor.on_tick()
        answer = slots_here().run(
            run_phases,
            work,
            supervisor.files is not None,
            supervisor=supervisor,
            tick=TICK,
            sys_path=work.sys_path,
            batch=work.token,
            own_mounts=needs_own_mounts((*work.shared, *work.inputs)),
        )
    except SlotLost as exc:
        return supervisor.outcome(TaskLost(work.task, socket.gethostname(), exc.exit_code))
    except EncampError as exc:
        return supervisor.outcome(exc)
    except BaseException:
        supervisor.outcome(Abandoned())
        raise
    finally:
        supervisor.close()
    if not isinstance(answer, Done):
        if isinstance(answer.error, Stopped):
            return supervisor.outcome(TaskLost(work.task, socket.gethostname(), None, _TERMINATED))
        if isinstance(answer.error, NotImportable):
            return Outcome(where=supervisor.where, error=answer.error)
        raise answer.error
    outcome: Outcome = answer.value
    if isinstance(outcome.error, Stopped):
        return supervisor.outcome(TaskLost(work.task, socket.gethostname(), None, _TERMINATED))
    outcome.where = replace(supervisor.where, pid=outcome.pid)
    return outcome


class _Supervisor:
    """Supervises one attempt: its time limits, and whether the run still wants it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.where = Where(socket.gethostname(), worker_name(), 0)
        self.ask = ask_here() if work.beacon else None
        self.files = SpawnersFiles(self.ask) if self.ask is not None else None
        self._asks = self.ask is not None and not sees(work.lease.file)
        self._asked = time.monotonic()
        self._lease = LeaseWatch(work.lease)
        self._folder: Path | None = None
        self._limits = TimeLimits(work.task, work.time_limit)
        self._usage = ResourceUsage()
        self._step: StepBegins | None = None
        self._phase_began = work.clock.now(), time.monotonic()
        self._services: Relays | None = None

    def answer(self, question: Any) -> Any:
        """Answer a question of the step; an exception is raised there."""
        if isinstance(question, StepQuestion):
            if self._services is None:
                from encamp.services.current_client import client_of  # rarely needed
                from encamp.services.step_client import Relays

                self._services = Relays(client_of)
            return self._services.answer(question)
        if self.ask is None:
            raise RuntimeError("the worker of this step cannot answer questions")
        return self.ask(question)

    def close(self) -> None:
        """Record that the step has ended."""
        if self._services is not None:
            self._services.close()

    def on_note(self, note: AttemptNote) -> None:
        """Read the attempt's notes about itself."""
        if self._folder is None:
            self._folder = Path(note.folder)
            self.where = Where(self.where.host, self.where.worker, note.pid)
            self._usage.begin(note.pid, note.cpu_seconds)
        step = note.step
        if step is not None and step != self._step:
            ago = max(0.0, time.monotonic() - step.since)
            self._step = step
            self._limits.step_begins(step.label, step.time_limit, ago)
            self._phase_began = self.work.clock.now() - ago, step.since

    def on_message(self, message: AttemptNote) -> None:
        """Read a note that was too long to be left, or that must not be missed."""
        self.on_note(message)

    def on_tick(self) -> None:
        """Check the lease and the time limits. Raises `Abandoned` or `TimeLimitExceeded`."""
        now = time.monotonic()
        self._usage.look_again()
        if self._folder is not None:
            limit_log(self._folder, self.work)
        try:
            self._check_lease(now)
            self._limits.check()
        except EncampError:
            self._usage.look()
            raise

    def _check_lease(self, now: float) -> None:
        if self._lease.over() or (self._asks and now - self._asked > _ASK and self._is_over(now)):
            raise Abandoned

    def _is_over(self, now: float) -> bool:
        """Whether the run reports that it has ended, if its lease cannot be seen."""
        self._asked = now
        return bool(self.ask is not None and self.ask(IsOver()))

    def _phases(self) -> list[Span]:
        """The phases of an attempt that cannot report them; the last one ends now."""
        began, clock = self._phase_began
        if self._step is None:
            name, before = "task prephase", []
        else:
            name = self._step.label or "task postphase"
            before = [Span(*one) for one in self._step.before]
        return [*before, Span(name, began, time.monotonic() - clock)]

    def outcome(self, error: EncampError) -> Outcome:
        """The outcome of an attempt without its slot; also removes or keeps its folder."""
        outcome = Outcome(where=self.where, error=error, phases=self._phases())
        outcome.cpu_seconds, outcome.peak_memory = self._usage.cpu_seconds, self._usage.peak_memory
        if self._step is not None:
            counts = self._step.mirrored
            outcome.bytes_mirrored, outcome.files_mirrored, outcome.bytes_shared = counts
        if self._folder is None:
            reclaim()  # the slot may have been stopped before it could report its folder
            return outcome
        wanted = not isinstance(error, Abandoned)
        if wanted and self._step is not None:  # before the first step, inputs may be incomplete
            outcome.rescued = rescue_dead(self._folder, self.work.folder, self.files)
        log = log_file(self._folder)
        with suppress(OSError, EncampError):
            if wanted and log.stat().st_size:
                outcome.log_tail = tail_of(log)
                outcome.log = stage_log(self._folder, self.work, self.files)
        if (kept := end_dead(self._folder, keeps=self.work.keep != "never")) is not None:
            outcome.kept = f"{self.where.host}:{kept}"
        return outcome
