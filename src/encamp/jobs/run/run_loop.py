"""One run of a job: finds tasks that must run, submits them to an executor, publishes results.

One thread does all of this. Results arrive in a queue, and are published and journaled in the order
of their arrival; then the tasks that waited for them are submitted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from socket import gethostname
from typing import TypeVar

from encamp.attempt_facts import Published
from encamp.errors import (
    DiskFull,
    EncampError,
    EngineFailed,
    InputError,
    OutOfTime,
    SlotsCannotStart,
    SourceChanged,
    StepFailed,
    TaskLost,
    TimeLimitExceeded,
    reason_of,
)
from encamp.job_status import JobStatus, State
from encamp.jobs.display.run_monitor import RunMonitor
from encamp.jobs.job_definition import JobDefinition
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record, outputs_in, seen
from encamp.jobs.plan.orphans import OrphanWatch
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.progress_interface import Shielded
from encamp.jobs.report.build_reports import (
    attempt_report,
    controller_here,
    task_report,
)
from encamp.jobs.report.compressed_reports import report_up_to_date
from encamp.jobs.report.run_report import RunReport
from encamp.jobs.run.allocation_end import TimeLeft
from encamp.jobs.run.attempt_outcomes import AttemptOutcomes
from encamp.jobs.run.executors import name_of, services_of, workers_of
from encamp.jobs.run.killed_runs import discard_parts, sweep
from encamp.jobs.run.max_failures import MaxFailures
from encamp.jobs.run.publisher import Done, Publisher
from encamp.jobs.run.staged_checks import check_staged
from encamp.jobs.run.submitted_attempts import SILENCE, Arrival, Submissions
from encamp.jobs.run.submitted_task import SubmittedTask
from encamp.jobs.run.waiting_for_space import WaitingForSpace
from encamp.jobs.run_interrupts import RunInterrupts, stopped
from encamp.jobs.run_lease import new_lease
from encamp.jobs.run_options import RunOptions
from encamp.jobs.worker.log import log_name
from encamp.jobs.worker.supervise_attempt import Abandoned
from encamp.jobs.worker.work_and_outcome import Outcome, Work
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.path_to_destination import trust_in
from encamp.storage.disk.temporary_names import new_token
from encamp.storage.files_by_request import TaskFiles
from encamp.storage.import_path import import_path
from encamp.storage.outputs.patterns import Output
from encamp.storage.outputs.stage import unstage
from encamp.storage.shared_folders import below, local, portable_name
from encamp.task_values import as_json
from encamp.timeouts import JOB_ENDS
from encamp.wire.pickling import NotImportable

WINDOW = 1000
"""Maximum number of submitted tasks that have not ended; four for each worker if that is more."""
TOGETHER = 0.1
"""Maximum number of seconds for which results are collected if there are many: their outputs are
flushed and recorded together."""
_SHORTEST = 0.001
"""Seconds that a worker needs for any task, to estimate how long its submitted tasks last."""
_PLENTY = 10
"""From this many submitted tasks per worker, results are collected."""


Number = TypeVar("Number", int, float | None)


class RunLoop:
    """One run: decides which tasks to submit, and what follows from each outcome."""

    def __init__(
        self,
        job: JobDefinition,
        tasks: Collection[str],
        prepared: Prepared,
        journal: Journal,
        executor: Executor,
        workers: int | None,
        options: RunOptions,
        progress: Shielded,
        interrupts: RunInterrupts,
    ) -> None:
        self.job, self.tasks, self.prepared, self.journal = job, tasks, prepared, journal
        self.workers, self.options = workers, options
        self.progress = progress
        self.window = max(WINDOW, 4 * (workers or 0))
        self.token = new_token()
        self.shared = journal.own_folder.shared
        folder = portable_name(journal.folder)
        self.lease = new_lease(folder, self.token)
        logs = below(folder, "logs")
        self._logs_here = local(logs)
        self.logs = Output("log", at=logs, trust=trust_in(job.to, 1, shared=self.shared))
        self.sys_path = tuple(import_path())
        self.publisher = Publisher(prepared, journal)
        self.orphans = OrphanWatch(journal, job.to)
        self.orphans.look("the job", prepared.shared)
        self.running: dict[str, SubmittedTask] = {}
        self.waiting_for_space = WaitingForSpace()
        self.submissions = Submissions(executor, self.token)
        self.report = RunReport(
            job,
            tasks,
            prepared,
            journal,
            self.orphans,
            name_of(executor),
            partial(services_of, executor),
        )
        self.ended, self.clock = self.report.ended, self.report.clock
        self.time_left = TimeLeft(map(job.tasks.__getitem__, tasks), options.time_limit)
        self.late: list[str] = []
        """Tasks that cannot end before the allocation does."""
        self.outcomes = AttemptOutcomes(self.submissions, self.clock)
        self.max_failures = MaxFailures(options.max_failures)
        self.hopeless = self.stopping = False
        self.untidy = False
        self.monitor = RunMonitor(
            job.name,
            len(tasks),
            workers,
            self.clock,
            progress,
            journal.own_folder,
            controller_here(),
            self._draw,
        )
        self.interrupts = interrupts
        interrupts.wake = self.submissions.wake

    def run(self) -> JobReport:
        sweep(self.job, self.journal.own_folder)
        self._pass_over()
        self.uid = self.lease.take(self.journal.own_folder)
        self.prepared.note_job_inputs()
        self.progress.began(self.job.name, len(self.tasks), self.workers)
        try:
            self._loop()
        except BaseException as exc:
            self._stop()
            if isinstance(exc, OutOfTime):
                exc.done = self._done_so_far()  # others may have ended since it was raised
            with suppress(EncampError, OSError):  # the error that stopped the run matters more
                report = self._reported(interrupted=True)
                if isinstance(exc, KeyboardInterrupt):
                    stopped(exc, report.words())
            raise
        finally:
            self.lease.end(untidy=self.untidy)
            self.submissions.close()
            if self.untidy:
                discard_parts(self.job, self.token, self.uid)
                if not self.running and self.submissions.over is None:  # nothing else writes there
                    self.lease.swept()
        return self._reported(interrupted=self.max_failures.reached)

    def _pass_over(self) -> None:
        """Record that the outputs of tasks outside this run still belong to these tasks."""
        if len(self.tasks) == len(self.job.tasks):
            return
        self.prepared.graph.choose(self.tasks)
        for name in self.job.tasks.keys() - self.tasks:
            outputs = self.journal.done.outputs(name)
            self.publisher.keep(name, outputs)
            self.report.list_outputs(outputs)

    def _loop(self) -> None:
        graph = self.prepared.graph
        ready: deque[str] = deque()
        while graph.going_on and not (self.max_failures.reached and not self.running):
            ready.extend(graph.ready())
            while ready and self._may_begin() and not self._may_be_enough():
                self._check()
                self.monitor.look(self.submissions.futures, self._try_of)
                self._begin_in_time(ready.popleft())
            self._see_time_left(ready)
            self._check()
            self.monitor.look(self.submissions.futures, self._try_of)
            if self.running:
                arrivals = self._arrivals(min(SILENCE, self.monitor.pause))
                if arrivals:
                    self._handle_arrivals(arrivals)
                if self.submissions.look(arrived=bool(arrivals)):
                    self.running.clear()
            if not self.max_failures.reached:
                self._try_again_after_full_disk()

    def _try_of(self, name: str) -> int:
        return self.running[name].retries.counted

    def _may_begin(self) -> bool:
        """Whether another task may be submitted now."""
        return (
            len(self.running) < self._most_ahead()
            and self.submissions.over is None
            and not self.max_failures.reached
        )

    def _most_ahead(self) -> float:
        """How many tasks may be submitted at once; fewer if failures are counted."""
        if self.workers is None or not self.max_failures.counts:
            return self.window
        workers = workers_of(self.submissions.executor) or self.workers  # a cluster may have grown
        return min(self.window, self.max_failures.most_ahead(workers))

    def _may_be_enough(self) -> bool:
        """Whether a result has arrived that must be counted before another task is submitted."""
        counts = self.max_failures.counts
        return counts and bool(self.running) and self.submissions.some_arrived

    def _begin_in_time(self, name: str) -> None:
        if self.time_left.limited and not self.time_left.enough_for(self.job.tasks[name]):
            self.late.append(name)
        else:
            self._begin(name)

    def _see_time_left(self, ready: deque[str]) -> None:
        """Cancel tasks that have not started and could not end in time; stop if no others are left.

        Raises `OutOfTime`.
        """
        if not self.time_left.limited:
            return
        busy = self.running or self.waiting_for_space
        if self.late and not busy and self.time_left.moved():
            ready.extend(self.late)
            self.late.clear()
        elif self.time_left.is_up() or (self.late and not (busy or ready)):
            waiting = self.job.tasks[self.late[0]] if self.late else None
            raise self.time_left.error(self._done_so_far(), len(self.tasks), waiting)
        if self.time_left.short:
            for future, name in list(self.submissions.futures.items()):
                if not self.time_left.enough_for(self.job.tasks[name]):
                    future.cancel()  # unless it has begun

    def _taken_back(self, name: str, future: Future[Outcome]) -> bool:
        """Whether a task was cancelled before it started, for lack of time."""
        if not (self.time_left.limited and future.cancelled()):
            return False
        late = not self.time_left.enough_for(self.job.tasks[name])
        if late:
            self.late.append(name)
            del self.running[name]
        return late

    def _done_so_far(self) -> int:
        return sum(state in ("done", "up to date") for state in self.ended.states())

    def _check(self) -> None:
        """Stop on a signal, or if nothing runs and there is no executor left."""
        self.interrupts.check()
        if self.submissions.over is not None and (self.hopeless or not self.running):
            raise self.submissions.over

    def _try_again_after_full_disk(self) -> None:
        """Retry tasks that found the disk full, if another has ended or no other runs."""
        waiting, ended = self.waiting_for_space, self.ended.ended
        while self.submissions.over is None:
            found = waiting.next(ended, alone=not self.running)
            if found is None:
                break
            name, current = found
            self.running[name] = current
            self._submit(name)

    def _begin(self, name: str) -> None:
        """Submit a ready task, unless there is a reason not to run it."""
        for other in self.prepared.graph.before.get(name, ()):
            if not self.ended.is_done(other):
                waits = f"it waits for {other}, which failed"
                self._end(TaskReport(name, "blocked", why=waits))
                return
        try:
            inputs = self.prepared.inputs.of(name)
            self.orphans.look(f"task {name}", inputs)
            key = self.prepared.key(name, inputs)
        except (InputError, OSError) as exc:
            self._end(TaskReport(name, "failed", why=reason_of(exc, name)))
            return
        line = self.journal.done.line(name)
        record = seen(line, name) if line else None
        forced = self.options.force
        why = "it was forced" if forced else self.prepared.why_run(name, record, key, inputs)
        if why is None and line and record:
            self._up_to_date(name, line, outputs_in(record))
            return
        number = self.journal.attempts.get(name, 0)
        self.running[name] = SubmittedTask(key, why or "", inputs, self.prepared.shared, number)
        self._submit(name)

    def _up_to_date(self, name: str, line: bytes, outputs: list[Published]) -> None:
        self.publisher.keep(name, outputs)
        self.ended.up_to_date(name, line)
        self._note_end(name, outputs)
        self.monitor.up_to_date()
        report_up_to_date(self.progress, name, self.ended)

    def _submit(self, name: str) -> None:
        current = self.running.pop(name)  # it counts as submitted when that is recorded
        current.begin()
        self.journal.write(Record("submitted", name, time.time(), current.number))
        self.running[name] = current
        self.monitor.submitted()
        self.progress.submitted(name, current.number)
        self._hand_over(name)

    def _hand_over(self, name: str) -> None:
        self.running[name].submitted = self.clock.now()
        if not self.submissions.submit(name, self._work(name)):
            del self.running[name]

    def _work(self, name: str) -> Work:
        task, current = self.job.tasks[name], self.running[name]
        outputs, left = self.prepared.bound(task.outputs), self.prepared.bound(task.on_failure)
        return Work(
            job=self.job.name,
            task=name,
            attempt=current.number,
            token=self.token,
            steps=self.prepared.steps(name),
            shared=current.shared,
            inputs=tuple(current.inputs),
            outputs=outputs,
            on_failure=left,
            logs=self.logs,
            time_limit=self._setting(self.options.time_limit, task.time_limit),
            log_limit=self.job.log_limit,
            keep=self.options.keep,
            lease=self.lease,
            values=task.values,
            sys_path=self.sys_path,
            clock=self.clock,
            beacon=self.submissions.beacon((*outputs, *left, self.logs)),
        )

    @staticmethod
    def _setting(by_options: Number | None, by_task: Number) -> Number:
        return by_task if by_options is None else by_options

    def _arrivals(self, timeout: float) -> list[Arrival]:
        """The results that have arrived; waits for one, or for a signal."""
        return self.submissions.arrivals(timeout, self._pause, self.window)

    def _pause(self) -> float:
        """Seconds for which results may be collected, because the workers have enough to do."""
        if self.workers is None or self.prepared.graph.before or self.stopping:
            return 0.0
        ahead = len(self.running) / self.workers
        return min(TOGETHER, ahead * _SHORTEST) if ahead > _PLENTY else 0.0

    def _handle_arrivals(self, arrivals: list[Arrival]) -> None:
        """Publish the outputs of good results, then write to the journal, in this order."""
        arrived: list[tuple[str, Outcome]] = []
        all_files: list[TaskFiles] = []
        for name, future in arrivals:
            all_files.append(self.submissions.take((name, future)))
            if self._taken_back(name, future):
                continue
            if (outcome := self._outcome(name, future)) is not None:
                self.outcomes.note(outcome.where)
                check_staged(self.prepared, name, outcome, self.token, self._log_of(name))
                arrived.append((name, outcome))
        done = self.publisher.publish(arrived)
        for name, outcome in arrived:
            if outcome.error is not None:
                self._failed(name, outcome)
        self._done(done)
        for files in all_files:
            files.close()

    def _log_of(self, name: str) -> str:
        """The final name of the log of a task's attempt."""
        return f"{self._logs_here}/{log_name(name, self.running[name].number)}"

    def _outcome(self, name: str, future: Future[Outcome]) -> Outcome | None:
        """The outcome in a future; None if the task was submitted again."""
        submitted = self.running[name].submitted
        outcome = self.outcomes.of(name, future, submitted, stopping=self.stopping)
        if not isinstance(outcome.error, NotImportable):
            return outcome
        module = outcome.error.module
        if self.prepared.send_by_value(name, module):
            self._hand_over(name)
            return None
        cause = f"cannot be loaded: the worker cannot import {module!r}; install it there"
        outcome.error = StepFailed(name, module, None, cause)
        return outcome

    def _done(self, done: list[Done]) -> None:
        """Record finished tasks, all at once, and release the tasks that wait for them."""
        records: list[Record] = []
        reports: list[TaskReport] = []
        for name, outcome, published in done:
            current = self.running.pop(name)
            current.attempts.append(attempt_report(name, current, outcome))
            report = replace(self._task_report(name, "done", current, outcome), outputs=published)
            self.time_left.note(self.job.tasks[name], outcome.phases)
            value = report.value
            kept = report if value is None else replace(report, value=as_json(value))
            records.append(Record("done", name, time.time(), current.number, current.key, kept))
            reports.append(report)
        lines = self.journal.write(*records)
        for report, line in zip(reports, lines, strict=True):
            self.orphans.note(report.name, self.publisher.finals)
            self._end(report, line)

    def _failed(self, name: str, outcome: Outcome) -> None:
        current = self.running[name]
        current.attempts.append(attempt_report(name, current, outcome))
        unstage(outcome.staged)
        self.untidy |= isinstance(outcome.error, Abandoned | TaskLost | TimeLimitExceeded)
        if self._is_given_up(outcome):
            self.running.pop(name)
            return
        if isinstance(outcome.error, DiskFull) and len(self.running) > 1:
            self.waiting_for_space.add(name, self.running.pop(name), self.ended.ended)
            unstage(outcome.rescued)
            return
        if outcome.lost:
            current.retries.host_was_lost()
        if isinstance(outcome.error, SourceChanged):
            self._plan_anew(name, outcome)
        retries = self._setting(self.options.retries, self.job.tasks[name].retries)
        if not self.max_failures.reached and current.retries.is_tried_again(outcome.error, retries):
            self.progress.retried(name, current.number, current.attempts[-1].error or "")
            unstage(outcome.rescued)
            self._submit(name)
            return
        self.running.pop(name)
        error, elsewhere = outcome.error, self.submissions.elsewhere
        if isinstance(error, SlotsCannotStart) and error.host == gethostname() and not elsewhere:
            self.submissions.over = EngineFailed(self.options.engine, str(error))
            self.hopeless = True  # other tasks would fail in the same way
        report = self._task_report(name, "failed", current, outcome)
        self._end(replace(report, rescued=self.publisher.rescue(name, outcome)))

    def _is_given_up(self, outcome: Outcome) -> bool:
        """Whether an attempt ended because the run stops: this is not a failure."""
        if self.stopping or (self.submissions.over is not None and outcome.lost):
            return True
        return self.max_failures.reached and isinstance(outcome.error, Abandoned | DiskFull)

    def _task_report(
        self, name: str, state: State, current: SubmittedTask, outcome: Outcome
    ) -> TaskReport:
        return task_report(self.job.tasks[name], state, current, outcome)

    def _plan_anew(self, name: str, outcome: Outcome) -> None:
        """Look up the inputs of a task again, because one has changed since they were looked up."""
        try:
            inputs, key = self.prepared.look_again(name)
        except (InputError, OSError) as exc:
            outcome.error = exc
            return
        self.running[name].plan_anew(inputs, self.prepared.shared, key)

    def _end(self, report: TaskReport, line: bytes = b"") -> None:
        self.ended.add(report, line)
        self._note_end(report.name, (*report.outputs, *report.rescued))
        self.monitor.ended(report)
        self.progress.ended(report)
        if report.state == "failed":
            self._note_failure(report)

    def _note_failure(self, report: TaskReport) -> None:
        """Record a failure, for later runs with ``failed``, and count it for ``max_failures``."""
        kept = replace(report, value=None, log_tail="")
        self.journal.write(Record("failed", report.name, time.time(), report=kept))
        if self.max_failures.note_failure():
            from encamp.executor.mapping import cancel_all

            cancel_all(list(self.submissions.futures))

    def _note_end(self, name: str, published: Iterable[Published]) -> None:
        self.report.list_outputs(published)
        self.prepared.graph.ended(name)
        self.prepared.forget(name)

    def _stop(self) -> None:
        """Stop the running tasks, but publish those that end in time."""
        self.stopping = self.untidy = True
        self.submissions.stop()
        self.lease.end(untidy=True)
        deadline = time.monotonic() + JOB_ENDS
        while self.running and (left := deadline - time.monotonic()) > 0:
            self.monitor.look(self.submissions.futures, self._try_of, stopping=True)
            self._handle_arrivals(self._arrivals(min(left, self.monitor.pause)))

    def _draw(self, status: JobStatus, pause: float) -> None:
        self.report.draw(status, pause, self.max_failures.warnings())

    def _reported(self, *, interrupted: bool) -> JobReport:
        report = self.report.write(self.max_failures.warnings(), interrupted=interrupted)
        self.progress.finished(report)
        return report
