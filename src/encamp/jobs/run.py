"""Running a job: finds the tasks that must run, submits them to an executor, and publishes results.

One thread does all of this. Results arrive in a queue, and are published and journaled in the order
of their arrival; then the tasks that waited for them are submitted.
"""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, TypeVar

from encamp import quota
from encamp.engines.local import warn_if_alone
from encamp.engines.registry import launched
from encamp.errors import (
    BadDestination,
    BadJob,
    CommandNotFound,
    DiskFull,
    EncampError,
    EngineFailed,
    InputError,
    OutOfTime,
    OutputConflict,
    SlotsCannotStart,
    SourceChanged,
    StepFailed,
    TaskLost,
    TimeLimitExceeded,
    reason,
    reason_of,
)
from encamp.jobs.claims import check_claims
from encamp.jobs.clock import Clock
from encamp.jobs.definition import JobDefinition
from encamp.jobs.display.default import progress_here
from encamp.jobs.display.live import Live
from encamp.jobs.display.progress import Progress, Shielded, Silent
from encamp.jobs.dry import dry_run
from encamp.jobs.interrupts import Interrupts
from encamp.jobs.journal import Journal, Record, outputs_in, seen
from encamp.jobs.options import Options
from encamp.jobs.plan.orphans import OrphanWatch
from encamp.jobs.plan.own_folder import OwnFolder
from encamp.jobs.plan.prepare import Prepared
from encamp.jobs.plan.selection import NONE_FAILED, Selection
from encamp.jobs.pools import (
    answering,
    hosts_elsewhere,
    one_worker_a_call,
    services_of,
    why_gone,
)
from encamp.jobs.report.account import (
    InHand,
    Workplaces,
    attempt_report,
    controller_here,
    job_report,
    task_report,
    write_manifest,
)
from encamp.jobs.report.last_report import keep_report
from encamp.jobs.report.parameters import parameters_of
from encamp.jobs.report.report import write_page
from encamp.jobs.report.reports import Reports, as_list_if_few, tell_up_to_date
from encamp.jobs.report.table import facts_of, write_table
from encamp.jobs.worker.attempt import Abandoned, attempt
from encamp.jobs.worker.lease import Beats, leases, new_lease, token_of
from encamp.jobs.worker.slots import slots_here
from encamp.jobs.worker.time_left import TimeLeft
from encamp.jobs.worker.watchers import Watchers
from encamp.jobs.worker.work import Outcome, Work, log_name
from encamp.model import JobFailed, JobReport, JobStatus, Published, State, TaskReport
from encamp.quantities import whole
from encamp.sizes import counted
from encamp.slot.program import check_slots
from encamp.storage.disk.trusted import trust_in
from encamp.storage.import_path import import_path
from encamp.storage.leftovers import reclaim_leftovers
from encamp.storage.outputs.beacon import Beacons
from encamp.storage.outputs.landing import Depot
from encamp.storage.outputs.parts import discard_leftovers, new_token
from encamp.storage.outputs.patterns import Output, folders_of
from encamp.storage.outputs.publish import (
    final_name,
    flush_copies,
    flush_error,
    flush_folders,
    manifest_lines,
    names_to_take,
    parents,
    publish,
)
from encamp.storage.outputs.stage import Staged, unstage
from encamp.storage.ownership import reclaim
from encamp.storage.roots import local, local_storage, portable_name
from encamp.storage.urls import is_url
from encamp.values import Scalar, as_json
from encamp.wire.pickling import NotImportable

if TYPE_CHECKING:
    from encamp.cluster.cluster import Cluster

WINDOW = 1000
"""How many tasks the executor has in hand at most, or four for each of its workers."""
MOST_LOSSES = 3
"""How often a task is run again for a lost host, whatever its retries: it may be what kills it."""
MOST_CHANGES = 3
"""How often a task is run again for inputs that changed meanwhile, whatever its retries."""
SILENCE = 5.0
"""Seconds without any result after which it is seen whether the executor is still there."""
TOGETHER = 0.1
"""Seconds at most in which results are collected where there are many: their outputs are flushed,
and written down, together."""
_SHORTEST = 0.001
"""Seconds that a worker needs for any task, by which is known how long those in hand last."""
_PLENTY = 10
"""Tasks in hand for each worker, from which on results are collected."""
STOP_WITHIN = 10.0
"""Seconds that running tasks have to stop after Ctrl-C."""


Number = TypeVar("Number", int, float | None)


def run_job(
    job: JobDefinition, executor: Executor | Cluster | None, options: Options, *, check: bool
) -> JobReport:
    """Run what is missing or has changed of a job; see `Job.run`."""
    _check(executor)
    if options.debugged is not None:
        from encamp.jobs.debug import debug  # and pdb, which is for few

        return debug(job, options, options.debugged)
    if options.dry_run:
        return dry_run(job, options, options.progress or Silent())
    progress = options.progress or progress_here()
    shielded = Shielded(progress)
    shared = job.shared or options.shared
    journal = Journal(job.true_folder(shared=shared), shared=shared, is_true=True)
    prepared = Prepared(job, journal)
    selection = Selection(job.tasks, prepared.graph, options)
    local_storage()
    reclaim_leftovers()
    with ExitStack() as stack:
        together = executor is None and launched(options.engine)
        if together:  # first: the others wait for this process, and become its agents here
            pool, workers = stack.enter_context(_pool(executor, options))
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(journal.writing())
        journal.note_tasks(job.tasks)
        tasks = selection.tasks(journal)
        if not tasks:
            return _nothing_to_run(job, shielded)
        if not together:
            pool, workers = stack.enter_context(_pool(executor, options))
        run = _Run(job, tasks, prepared, journal, pool, workers, options, shielded, interrupts)
        with Beats(local(run.lease.file)):
            report = run.run()
    if check and not report.ok:
        raise JobFailed(report)
    return report


def _nothing_to_run(job: JobDefinition, progress: Progress) -> JobReport:
    """The report of a run without tasks; the last report stays."""
    progress.began(job.name, 0, None)
    report = job_report(job, [], Clock(), "none", interrupted=False, warnings=[NONE_FAILED])
    progress.finished(report)
    return report


def _check(executor: object) -> None:
    """Raises `BadJob` for an object on which no job can run."""
    if isinstance(executor, Executor):
        return
    if executor is None:
        check_slots()
        return
    from encamp.cluster.cluster import Cluster

    if not isinstance(executor, Cluster):
        why = (
            "is neither an executor nor a cluster; use keywords for other options, such as "
            "engine='mpi' or slots=4"
        )
        raise BadJob(f"job.run({executor!r})", why)


@contextmanager
def _pool(
    executor: Executor | Cluster | None, options: Options
) -> Iterator[tuple[Executor, int | None]]:
    """The user's executor, or one whose workers supervise a slot for each task."""
    if isinstance(executor, Executor):
        yield one_worker_a_call(executor), _workers_of(executor)
        return
    if executor is not None:
        from encamp.executor.executor import Executor as ClusterExecutor

        with ClusterExecutor(executor) as view:
            yield view, executor.slots
        return
    pool, workers = _own_pool(options)
    try:
        yield pool, workers
    finally:
        pool.shutdown(cancel_futures=True)
        slots_here().close()
        reclaim()  # a slot that was stopped while it removed its folder has left the rest


def _own_pool(options: Options) -> tuple[Executor, int]:
    """Threads of this program, or a cluster whose agents have some."""
    if options.engine == "local" and not options.engine_options:
        warn_if_alone()
        slots = quota.cores() if options.workers is None else whole("slots", options.workers, 1)
        return Watchers(slots), slots
    from encamp.executor.executor import Executor as ClusterExecutor

    pool = ClusterExecutor(
        options.engine, slots=options.workers, inline="threads", **options.engine_options
    )
    return pool, pool.cluster.slots


def _workers_of(executor: Executor) -> int | None:
    """The number of an executor's workers, if it tells."""
    cluster = getattr(executor, "cluster", None)
    workers: int | None = getattr(executor, "_max_workers", None)
    return workers if cluster is None else cluster.slots


_Arrival = tuple[str, "Future[Outcome]"]
_Done = tuple[str, Outcome, list[Published]]


class _Run:
    def __init__(
        self,
        job: JobDefinition,
        tasks: Collection[str],
        prepared: Prepared,
        journal: Journal,
        executor: Executor,
        workers: int | None,
        options: Options,
        progress: Shielded,
        interrupts: Interrupts,
    ) -> None:
        self.job, self.tasks, self.prepared, self.journal = job, tasks, prepared, journal
        self.executor, self.workers, self.options = executor, workers, options
        self.progress = progress
        self.window = max(WINDOW, 4 * (workers or 0))
        self.token = new_token()
        self.shared = journal.own_folder.shared
        self.lease = new_lease(journal.folder, self.token)
        logs = portable_name(journal.folder / "logs")
        self._logs_here = local(logs)
        self.logs = Output("log", at=logs, trust=trust_in(job.to, 1, shared=self.shared))
        self.sys_path = tuple(import_path())
        self.finals = prepared.finals
        self.own_folder = OwnFolder(job.folder)
        self.orphans = OrphanWatch(journal, job.to)
        self.orphans.look("the job", prepared.shared)
        self.running: dict[str, InHand] = {}
        self.parked: dict[str, InHand] = {}
        self.ended = Reports(tasks, journal.done, self._parameters_of)
        self.top = str(job.to)
        self.manifest: list[bytes] = []
        self.arrived: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self.futures: dict[Future[Outcome], str] = {}
        self.depots: dict[str, Depot] = {}
        self.beacons = Beacons(self.token) if hosts_elsewhere(executor) else None
        self.clock = Clock()
        self.time_left = TimeLeft((job.tasks[name] for name in tasks), options.time_limit)
        self.late: list[str] = []
        """Tasks that cannot end before the allocation does."""
        self.workplaces = Workplaces(self.clock)
        self._seen_gone = False
        self.over: EngineFailed | None = None
        """Why nothing can be run any more."""
        self.failures = 0
        self.hopeless = self.stopping = False
        self.passed_over = False
        """Whether there are other tasks than those of this run."""
        self.enough = False
        """Whether so many tasks have failed that no more are begun."""
        self.untidy = False
        self.heard = time.monotonic()
        """When something arrived last, or it was seen that the executor is there."""
        self.live = Live(
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
        interrupts.wake = lambda: self.arrived.put(None)

    def run(self) -> JobReport:
        self._sweep()
        self._pass_over()
        self.uid = self.lease.take(shared=self.shared)
        self.prepared.note_job_inputs()
        self.progress.began(self.job.name, len(self.tasks), self.workers)
        try:
            self._loop()
        except BaseException as exc:
            self._stop()
            if isinstance(exc, OutOfTime):
                exc.done = self._done_so_far()  # some have ended well since
            with suppress(EncampError, OSError):  # what stopped the run matters more
                self._report(interrupted=True)
            raise
        finally:
            self.lease.end()
            for depot in self.depots.values():
                depot.close()
            if self.beacons is not None:
                self.beacons.close()
            if self.untidy:
                self._discard_parts(self.token, self.uid)
        return self._report(interrupted=self.enough)

    def _pass_over(self) -> None:
        """The outputs of tasks outside of this run stay theirs."""
        if len(self.tasks) == len(self.job.tasks):
            return
        self.passed_over = True
        self.prepared.graph.choose(self.tasks)
        for name in self.job.tasks.keys() - self.tasks:
            outputs = self.journal.done.outputs(name)
            self._keep_names(name, outputs)
            self.manifest += manifest_lines(outputs, self.top)

    def _sweep(self) -> None:
        """Remove what killed runs of this job left at the destination."""
        for file, _ in leases(self.journal.own_folder):
            with suppress(OSError):
                self._discard_parts(token_of(file), file.lstat().st_uid)
                file.unlink(missing_ok=True)

    def _discard_parts(self, token: str, owner: int) -> None:
        """Remove temporary files of attempts that can neither remove nor publish them any more."""
        tasks = self.job.tasks.values()
        outputs = [output for task in tasks for output in (*task.outputs, *task.on_failure)]
        own = [output.to for output in outputs if not is_url(output.to)]
        tops = {self.job.to / os.path.expanduser(to) for to in own}
        discard_leftovers({*tops, self.job.folder / "logs"}, token, owner)

    def _loop(self) -> None:
        graph = self.prepared.graph
        ready: deque[str] = deque()
        while graph.going_on and not (self.enough and not self.running):
            ready.extend(graph.ready())
            while ready and self._may_begin() and not self._may_be_enough():
                self._check()
                self.live.look(self.futures, self._try_of)
                self._begin_in_time(ready.popleft())
            self._see_time_left(ready)
            self._check()
            self.live.look(self.futures, self._try_of)
            if self.running:
                arrivals = self._arrivals(min(SILENCE, self.live.pause))
                self._take_in(arrivals)
                self._see_executor(heard=bool(arrivals))
            if not self.enough:
                self._unpark()

    def _try_of(self, name: str) -> int:
        return self.running[name].tries

    def _may_begin(self) -> bool:
        """Whether another task may be submitted now."""
        return len(self.running) < self._most_ahead() and self.over is None and not self.enough

    def _most_ahead(self) -> int:
        """How many tasks may be submitted at once: fewer if failures are counted, to waste none."""
        most = self.options.max_failures
        if most is None or self.workers is None:
            return self.window
        workers = _workers_of(self.executor) or self.workers  # a cluster may have grown
        return min(self.window, workers + most - self.failures)

    def _may_be_enough(self) -> bool:
        """Whether a result has arrived that must be counted before another task is submitted."""
        counts = self.options.max_failures is not None
        return counts and bool(self.running) and not self.arrived.empty()

    def _begin_in_time(self, name: str) -> None:
        if self.time_left.enough_for(self.job.tasks[name]):
            self._begin(name)
        else:
            self.late.append(name)

    def _see_time_left(self, ready: deque[str]) -> None:
        """Cancel tasks that have not started and could not end in time; stop if no others are left.

        Raises `OutOfTime`.
        """
        if not self.time_left.limited:
            return
        if self.late and not (self.running or self.parked) and self.time_left.moved():
            ready.extend(self.late)
            self.late.clear()
        elif self.time_left.is_up() or (self.late and not (self.running or self.parked or ready)):
            waiting = self.job.tasks[self.late[0]] if self.late else None
            raise self.time_left.error(self._done_so_far(), len(self.tasks), waiting)
        if self.time_left.short:
            for future, name in list(self.futures.items()):
                if not self.time_left.enough_for(self.job.tasks[name]):
                    future.cancel()  # unless it has begun

    def _taken_back(self, name: str, future: Future[Outcome]) -> bool:
        """Whether a task was cancelled before it started, for lack of time."""
        late = future.cancelled() and not self.time_left.enough_for(self.job.tasks[name])
        if late:
            self.late.append(name)
            del self.running[name]
        return late

    def _done_so_far(self) -> int:
        return sum(state in ("done", "up to date") for state in self.ended.states())

    def _see_executor(self, *, heard: bool) -> None:
        """Give up running tasks if the executor has ended, seen twice while nothing arrives."""
        now = time.monotonic()
        if not heard and now - self.heard < SILENCE:
            return
        self.heard = now
        why = None if heard else why_gone(self.executor)
        if why is None:
            self._seen_gone = False
        elif not self._seen_gone:
            self._seen_gone = True
        elif self.over is None:
            self.over = self._gone(why)
            self.running.clear()
            self.futures.clear()  # nobody is there to cancel them

    def _gone(self, why: str) -> EngineFailed:
        library = type(self.executor).__module__.partition(".")[0]
        return EngineFailed(library, f"{why}; finished tasks stay done; run again to continue")

    def _check(self) -> None:
        """Stop on a signal, or if nothing runs and there is no executor left."""
        self.interrupts.check()
        if self.over is not None and (self.hopeless or not self.running):
            raise self.over

    def _unpark(self) -> None:
        """Retry tasks that found the disk full, if another has ended or no other runs."""
        for name, current in list(self.parked.items()):
            if self.over is None and (self.ended.ended > current.parked_at or not self.running):
                del self.parked[name]
                self.running[name] = current
                self._submit(name)

    def _begin(self, name: str) -> None:
        """Submit a ready task, unless there is a reason not to run it."""
        failed = [b for b in self.prepared.graph.before[name] if not self._is_done(b)]
        if failed:
            self._end(TaskReport(name, "blocked", why=f"it waits for {failed[0]}, which failed"))
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
        self.running[name] = InHand(key, why or "", inputs, self.prepared.shared, number)
        self._submit(name)

    def _is_done(self, name: str) -> bool:
        return self.ended.state(name) in ("done", "up to date")

    def _up_to_date(self, name: str, line: bytes, outputs: list[Published]) -> None:
        self._keep_names(name, outputs)
        self.ended.up_to_date(name, line)
        self._note_end(name, outputs)
        self.live.up_to_date()
        tell_up_to_date(self.progress, name, self.ended)

    def _keep_names(self, name: str, outputs: list[Published]) -> None:
        for output in (one for one in outputs if one.kind != "folder"):
            self.finals.setdefault(output.path, name)

    def _submit(self, name: str) -> None:
        current = self.running.pop(name)  # not in hand before it is written down
        current.number += 1
        current.tries += 1
        self.journal.write(Record("submitted", name, time.time(), current.number))
        self.running[name] = current
        self.live.submitted()
        self.progress.submitted(name, current.number)
        self._hand_over(name)

    def _hand_over(self, name: str) -> None:
        self.running[name].submitted = self.clock.now()
        work = self._work(name)
        depot = Depot((*work.shared, *work.inputs), (*work.outputs, *work.on_failure, self.logs))
        self.depots[name] = depot
        try:
            future = answering(self.executor, depot.answer).submit(attempt, work)
        except EngineFailed as exc:
            self.over = exc
            del self.running[name], self.depots[name]
            return
        except Exception as exc:  # noqa: BLE001 - broken, or shut down by its owner
            future = Future()
            future.set_exception(exc)
        self.futures[future] = name
        future.add_done_callback(lambda ended: self.arrived.put((name, ended)))

    def _work(self, name: str) -> Work:
        task, current = self.job.tasks[name], self.running[name]
        outputs, left = self.prepared.bound(task.outputs), self.prepared.bound(task.on_failure)
        if self.beacons is not None:
            self.beacons.light(folders_of((*outputs, *left, self.logs)))
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
            time_limit=self._said(self.options.time_limit, task.time_limit),
            log_limit=self.job.log_limit,
            keep=self.options.keep,
            lease=self.lease,
            values=task.values,
            sys_path=self.sys_path,
            clock=self.clock,
            beacon=self.beacons.told if self.beacons is not None else "",
        )

    @staticmethod
    def _said(by_options: Number | None, by_task: Number) -> Number:
        return by_task if by_options is None else by_options

    def _arrivals(self, timeout: float | None = None) -> list[_Arrival]:
        """The results that have arrived since the last call; waits for one, or for a signal.

        If the workers have enough to do, waits for some more, to handle them together.
        """
        arrivals: list[_Arrival | None] = []
        with suppress(queue.Empty):
            arrivals.append(self.arrived.get(timeout=timeout))
            if pause := self._pause():
                time.sleep(pause)
            while len(arrivals) < self.window:
                arrivals.append(self.arrived.get_nowait())
        return [arrival for arrival in arrivals if arrival is not None]

    def _pause(self) -> float:
        """Seconds for which results may be collected, because the workers have enough to do."""
        if self.workers is None or self.prepared.graph.before or self.stopping:
            return 0.0
        ahead = len(self.running) / self.workers
        return min(TOGETHER, ahead * _SHORTEST) if ahead > _PLENTY else 0.0

    def _take_in(self, arrivals: list[_Arrival]) -> None:
        """Publish the outputs of good results, then write to the journal, in this order."""
        came: list[tuple[str, Outcome]] = []
        depots: list[Depot] = []
        for name, future in arrivals:
            del self.futures[future]
            depots.append(self.depots.pop(name))
            if self._taken_back(name, future):
                continue
            if (outcome := self._outcome(name, future)) is not None:
                self.workplaces.note(outcome.where)
                check_claims(self.prepared, name, outcome, self.token, self._log_of(name))
                came.append((name, outcome))
        taken = self._take_names(came)
        self._flush([outcome for _, outcome in came], [self.journal.file] if taken else [])
        done: list[_Done] = []
        for name, outcome in came:
            if (published := self._publish(name, outcome)) is not None:
                done.append((name, outcome, published))
        self._done(self._flushed(done))
        for depot in depots:
            depot.close()

    def _log_of(self, name: str) -> str:
        """The final name of the log of a task's attempt."""
        return f"{self._logs_here}/{log_name(name, self.running[name].number)}"

    def _flush(self, outcomes: list[Outcome], journal: list[Path]) -> None:
        """Flush copies, and the journal's record of their final names, before renaming."""
        self.journal.own_folder.check()  # logs get their names by its path
        logs = [outcome.log for outcome in outcomes if outcome.log is not None]
        copies = [*logs, *(one for outcome in outcomes for one in outcome.staged)]
        failed = flush_copies(copies, journal)
        unwritten = [failed[str(file)] for file in journal if str(file) in failed]
        for outcome in outcomes if failed else ():
            for one in outcome.staged:
                for exc in (failed.get(one.part), *unwritten):
                    if exc is not None:
                        outcome.error = outcome.error or flush_error(one, exc)

    def _flushed(self, done: list[_Done]) -> list[_Done]:
        """The tasks whose new names are on the disk; the others have failed."""
        failed: dict[Path, BadDestination] = {}
        for folder in parents(one for _, _, published in done for one in published):
            try:
                flush_folders([folder])
            except BadDestination as exc:
                failed[folder] = exc
        good: list[_Done] = []
        for name, outcome, published in done:
            unwritten = parents(published) & failed.keys()
            if unwritten:
                outcome.error = failed[unwritten.pop()]
                self._failed(name, outcome)
            else:
                good.append((name, outcome, published))
        return good

    def _outcome(self, name: str, future: Future[Outcome]) -> Outcome | None:
        """The outcome in a future; None if the task was submitted again."""
        try:
            raised = future.exception()
        except CancelledError:
            if not self.stopping and self.over is None and (why := why_gone(self.executor)):
                self.over = self._gone(why)
            cancelled = Abandoned(
                "it was cancelled before it started, or its executor was shut down"
            )
            return Outcome(error=cancelled, lost=self.over is not None)
        if raised is not None:  # executors raise what they like, a worker's Ctrl-C among it
            if isinstance(raised, TaskLost):  # our own cluster has seen its host go
                outcome = self.workplaces.lost(future, raised, self.running[name].submitted)
                outcome.lost = raised.exit_code is None  # otherwise its process ended by itself
                outcome.error = raised.with_facts(task=name)
                return outcome
            gone = TaskLost(name, "its host", None, reason(raised))
            return self.workplaces.lost(future, gone, self.running[name].submitted)
        outcome = future.result()
        if not isinstance(outcome.error, NotImportable):
            return outcome
        module = outcome.error.module
        if self.prepared.send_by_value(name, module):
            self._hand_over(name)
            return None
        cause = f"cannot be loaded: the worker cannot import {module!r}; install it there"
        return replace(outcome, error=StepFailed(name, module, None, cause))

    def _take_names(self, came: list[tuple[str, Outcome]]) -> bool:
        """Record the final names of good outcomes before any of them becomes visible.

        Returns whether there are any that the journal does not know yet.
        """
        records: list[Record] = []
        taking: list[Outcome] = []
        for name, outcome in came:
            if outcome.error is None:
                try:
                    records += self._to_take(name, outcome)
                    taking.append(outcome)
                except (EncampError, OSError) as exc:
                    outcome.error = exc
        try:
            self.journal.write(*records)
        except (EncampError, OSError) as exc:
            for outcome in taking:
                outcome.error = exc
        return bool(records)

    def _to_take(self, name: str, outcome: Outcome) -> list[Record]:
        self._claim(name, outcome.staged)
        taken = self._names_taken(name, outcome.staged, "publishing")
        for record in taken:
            self.prepared.inputs.swept.check(name, record.paths)
        return taken

    def _publish(self, name: str, outcome: Outcome) -> list[Published] | None:
        """Make a good outcome's outputs visible; None if the task is not done."""
        if outcome.log is not None:
            with suppress(EncampError, OSError):
                publish([outcome.log], flush=False)
        if outcome.error is None:
            try:
                own = self.journal.own(name)
                return publish(outcome.staged, flush=False, own=own, checked=True)
            except (EncampError, OSError) as exc:
                outcome.error = exc
        self._failed(name, outcome)
        return None

    def _names_taken(self, name: str, staged: list[Staged], event: str) -> list[Record]:
        """A record of final names as this task's own, which a later run may replace."""
        taken = names_to_take(staged, self.journal.own(name))
        return [Record(event, name, time.time(), paths=taken)] if taken else []

    def _claim(self, name: str, staged: list[Staged]) -> None:
        self.finals.update(dict.fromkeys(self._unclaimed(name, staged), name))

    def _unclaimed(self, name: str, staged: list[Staged]) -> list[str]:
        """The final names, after a check that none belongs to another task."""
        finals = [final_name(one.final) for one in staged if one.kind != "folder"]
        for final in finals:
            self.own_folder.check(final)
            owner = self.finals.get(final, name)
            if owner != name:
                raise OutputConflict(final, f"task {owner}", f"task {name}")
        return finals

    def _done(self, done: list[_Done]) -> None:
        """Record finished tasks, all at once, and release the tasks that wait for them."""
        records: list[Record] = []
        reports: list[TaskReport] = []
        for name, outcome, published in done:
            current = self.running.pop(name)
            current.attempts.append(attempt_report(name, current, outcome))
            report = replace(self._task_report(name, "done", current, outcome), outputs=published)
            self.time_left.note(self.job.tasks[name], outcome.phases)
            kept = replace(report, value=as_json(report.value))
            records.append(Record("done", name, time.time(), current.number, current.key, kept))
            reports.append(report)
        self.journal.write(*records)
        for report in reports:
            self.orphans.note(report.name, self.finals)
            self._end(report)

    def _failed(self, name: str, outcome: Outcome) -> None:
        current = self.running[name]
        current.attempts.append(attempt_report(name, current, outcome))
        unstage(outcome.staged)
        self.untidy |= isinstance(outcome.error, Abandoned | TaskLost | TimeLimitExceeded)
        if self._is_given_up(outcome):
            self.running.pop(name)
            return
        if isinstance(outcome.error, DiskFull) and len(self.running) > 1:
            self._park(name, outcome)
            return
        if outcome.lost and current.losses < MOST_LOSSES:
            current.losses += 1
            current.tries -= 1
        if isinstance(outcome.error, SourceChanged):
            self._plan_anew(name, outcome)
        hopeless = isinstance(
            outcome.error, InputError | CommandNotFound | Abandoned | SlotsCannotStart
        )
        retries = self._said(self.options.retries, self.job.tasks[name].retries)
        if current.tries <= retries and not (hopeless or self.enough):
            self.progress.retried(name, current.number, current.attempts[-1].error or "")
            unstage(outcome.rescued)
            self._submit(name)
            return
        self.running.pop(name)
        error = outcome.error
        if isinstance(error, SlotsCannotStart) and error.host == gethostname() and not self.beacons:
            self.over = EngineFailed(self.options.engine, str(error))
            self.hopeless = True  # what is handed over would fare no better
        report = self._task_report(name, "failed", current, outcome)
        self._end(replace(report, rescued=self._rescue(name, outcome)))

    def _is_given_up(self, outcome: Outcome) -> bool:
        """Whether an attempt ended because the run stops: this is not a failure."""
        if self.stopping or (self.over is not None and outcome.lost):
            return True
        return self.enough and isinstance(outcome.error, Abandoned | DiskFull)

    def _task_report(
        self, name: str, state: State, current: InHand, outcome: Outcome
    ) -> TaskReport:
        return task_report(self.job.tasks[name], state, current, outcome)

    def _parameters_of(self, name: str) -> dict[str, Scalar]:
        return parameters_of(self.job.tasks[name])

    def _plan_anew(self, name: str, outcome: Outcome) -> None:
        """Look up a task's inputs again; a finished change does not count as a failed attempt."""
        current = self.running[name]
        before = current.key
        try:
            current.inputs, current.key = self.prepared.look_again(name)
        except (InputError, OSError) as exc:
            outcome.error = exc
            return
        current.shared = self.prepared.shared
        if current.key != before and current.changes < MOST_CHANGES:
            current.changes += 1
            current.tries -= 1

    def _park(self, name: str, outcome: Outcome) -> None:
        """Let a task that found the disk full wait for another's end; this is not a failure."""
        current = self.running.pop(name)
        current.tries -= 1
        current.number -= 1
        current.attempts.pop()
        current.parked_at = self.ended.ended
        self.parked[name] = current
        unstage(outcome.rescued)

    def _rescue(self, name: str, outcome: Outcome) -> list[Published]:
        """Publish the files of a failed task's ``on_failure``, as far as possible.

        They never get the name of another task's output, which may come later and replace them.
        """
        try:
            self._unclaimed(name, outcome.rescued)
            if taken := self._names_taken(name, outcome.rescued, "rescued"):
                self.journal.write(*taken)
                self.journal.flush()
            own = self.journal.own(name)
            rescued = publish(outcome.rescued, flush=False, own=own, checked=True)
            flush_folders(parents(rescued))
        except (EncampError, OSError):
            unstage(outcome.rescued)
            return []
        return rescued

    def _end(self, report: TaskReport) -> None:
        self.ended.add(report)
        self._note_end(report.name, (*report.outputs, *report.rescued))
        self.live.ended(report)
        self.progress.ended(report)
        if report.state == "failed":
            self._note_failure(report)

    def _note_failure(self, report: TaskReport) -> None:
        """Record it for a run of failed tasks, and count it for ``max_failures``."""
        kept = replace(report, value=None, log_tail="")
        self.journal.write(Record("failed", report.name, time.time(), report=kept))
        self.failures += 1
        if self.failures == self.options.max_failures:
            self._begin_no_more()

    def _begin_no_more(self) -> None:
        from encamp.executor.mapping import cancel_all

        self.enough = True
        cancel_all(list(self.futures))

    def _note_end(self, name: str, published: Iterable[Published]) -> None:
        self.manifest += manifest_lines(published, self.top)
        self.prepared.graph.ended(name)
        self.prepared.forget(name)

    def _stop(self) -> None:
        """Stop the running tasks, but publish those that end in time."""
        self.stopping = self.untidy = True
        for depot in self.depots.values():
            depot.stop()
        for future in list(self.futures):  # first those that wait, so that none of them begins
            future.cancel()
        self.lease.end()
        deadline = time.monotonic() + STOP_WITHIN
        while self.running and (left := deadline - time.monotonic()) > 0:
            self.live.look(self.futures, self._try_of, stopping=True)
            self._take_in(self._arrivals(min(left, self.live.pause)))

    def _draw(self, status: JobStatus, pause: float) -> None:
        """Write the report's page during the run."""
        so_far = self._so_far(self.ended.for_disk(), interrupted=False)
        write_page(so_far, self.journal.own_folder, status, pause)

    def _so_far(self, tasks: Sequence[TaskReport], *, interrupted: bool) -> JobReport:
        return job_report(
            self.job,
            tasks,
            self.clock,
            self._executor_name(),
            interrupted,
            [*self._too_many(), *self.journal.warnings, *self.orphans.warnings],
            services_of(self.executor),
            self.prepared.graph.before,
        )

    def _report(self, *, interrupted: bool) -> JobReport:
        so_far = self._so_far(as_list_if_few(self.ended), interrupted=interrupted)
        report = replace(so_far, orphans=self.orphans.count)
        write_manifest(self.journal.own_folder, self.manifest)
        for_disk = replace(report, tasks=self.ended.for_disk())
        keep_report(for_disk, self.journal.own_folder)
        made_of = None if self.passed_over else facts_of(self.job.tasks, self.ended.done)
        write_table(self._with_values, self.journal.own_folder, made_of)
        self.progress.finished(report)
        return report

    def _with_values(self) -> Iterator[TaskReport]:
        """Tasks that may have a row in the table, including those outside of this run."""
        chosen = frozenset(self.tasks)
        for name in self.job.tasks if self.ended.has_values or self.passed_over else ():
            if name not in chosen:
                record = self.journal.done.get(name)
                if record is not None and record.report is not None:
                    yield replace(record.report, parameters=self._parameters_of(name))
            elif self._is_done(name):
                yield self.ended.valued(name)

    def _too_many(self) -> list[str]:
        if not self.enough:
            return []
        most = counted(self.failures, "task")
        return [f"no more tasks were started after {most} had failed; run again to continue"]

    def _executor_name(self) -> str:
        told = getattr(self.executor, "cluster", self.executor)
        return getattr(told, "about", None) or type(self.executor).__name__
