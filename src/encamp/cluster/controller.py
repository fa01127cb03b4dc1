"""The controller: handles what arrives from the agents, and sends them calls and messages.

    Cluster.spawn ─► incoming ─► Scheduler ─► Run ─► agent ─► slot
    TaskRecord, queue of messages ◄─ results, messages, losses ◄─ agent ◄─ slot

All of it runs in the thread that drives the pump.
"""

from __future__ import annotations

import itertools
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import CancelledError
from itertools import repeat
from typing import Any, Protocol

from encamp import cores_and_memory
from encamp.cluster.call_setup import Setups
from encamp.cluster.disk_thread import DiskThread
from encamp.cluster.hosts_join_and_leave import AgentRecord, Agents
from encamp.cluster.kill_and_cancel import NOT_INLINE, KillAndCancel
from encamp.cluster.message_queue import MessageQueue
from encamp.cluster.records import SENT, WAITING, Cause, SlotRecord, TaskRecord
from encamp.cluster.scheduler import Scheduler
from encamp.cluster.sent_functions import Functions, name_of_called
from encamp.cluster.services_interface import ServicesInterface
from encamp.cluster.spawn_options import PLAIN, CheckedOptions, SpawnOptions
from encamp.cluster.task import FORKED, SpawnedTask, set_cancelled
from encamp.cluster.task_output import TaskOutputs
from encamp.engines.engine_interface import Arrival, Engine, Frame, Joined, Left
from encamp.errors import (
    CannotTravel,
    ClusterClosed,
    EncampError,
    EngineFailed,
    Stopped,
    TaskKilled,
    TaskLost,
    UnsupportedByEngine,
    reason,
    text_of,
    words_of,
)
from encamp.loop.event_loop import MANY, REST, by_signal
from encamp.loop.pump import Pump
from encamp.loop.time_limit_clock import NOTICED
from encamp.slot.call_folder import FolderResult
from encamp.slot.program_settings import SettingsSource
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.stage import unstage
from encamp.wire.frames import Parts, own
from encamp.wire.inbox import Inbox
from encamp.wire.outbox import Outbox
from encamp.wire.pickling import (
    NotBegun,
    NotImportable,
    RemoteTraceback,
    disclosed,
    dump,
    load,
    load_failure,
    portable_error,
    traceback_of,
)
from encamp.wire.protocol import (
    SPAWNER,
    Answer,
    Ask,
    Call,
    CallResult,
    GivenBack,
    Hello,
    HousekeepingDone,
    Locate,
    Location,
    ManyResults,
    Message,
    OutputText,
    Rescued,
    Results,
    Run,
    SlotEnded,
    SlotKind,
    Started,
    decode,
    encode,
)

_NONE = pickle.dumps(None, 5)
_NO_BUFFERS: Parts = []
_EAGER = 64
"""Maximum number of new tasks before the spawning thread sends them."""
_PATIENCE = 0.002
"""Seconds for which it waits for another thread that drives the pump."""


class SlotHere(Protocol):
    """The part of a slot that the controller needs if the agent is in its own process."""

    def give(self, envelope: Any, parts: Parts) -> None:
        """Pass a message to the slot."""


class Controller:
    """The state of a cluster, behind its public interface (`Cluster`)."""

    def __init__(
        self, engine: Engine, *, kind: SlotKind, follow: Callable[[int, str], None] | None
    ) -> None:
        self.engine, self.kind = engine, kind
        self.inline = kind is not SlotKind.PROCESS
        """Whether tasks run in agents themselves."""
        self.token = secrets.token_hex(8)
        """A name that no other cluster has."""
        self.pump = Pump()
        self.outbox = Outbox(engine)
        self.scheduler = Scheduler()
        self.functions = Functions(signals_deferred=self.pump.signals_deferred)
        self.disk_thread = DiskThread(self.pump)
        self.program_settings = SettingsSource()
        numbers = self.functions.numbers
        self.setups = Setups(numbers, everybody_here=engine.agent_here is not None)
        self.tasks: dict[int, TaskRecord] = {}
        """All tasks that have not ended."""
        self.incoming: deque[TaskRecord] = deque()
        self._numbers = itertools.count(1)
        self.messages = MessageQueue(self.tasks, self.outbox)
        self.task_outputs = TaskOutputs(follow)
        named = engine.name if self.inline else ""
        self.kill_and_cancel = KillAndCancel(self, self.scheduler, self.pump, self.outbox, named)
        self.agents = Agents(self, engine, self.scheduler, self.pump, self.outbox, self.messages)
        self.failure: EngineFailed | None = None
        self.services: ServicesInterface | None = None
        """The services of the cluster, see `ServicesInterface`."""
        self.slots_here: Sequence[SlotHere] | None = None
        """The slots of the only agent, if that is in this process."""
        self.closed = False
        """Whether it accepts no new tasks."""
        self.closing = False
        """Whether its agents were asked to end."""
        self.ended = False
        """Whether they and the engine have ended."""
        self._has_slots_here, self._cores = engine.agent_here is not None, cores_and_memory.cores()
        self._shares_memory = self.inline and engine.agent_here is not None
        """Whether tasks run in this process."""
        self.inbox = Inbox[AgentRecord](
            self.outbox,
            self.agents.by_number.get,
            heard=self._note_answer,
            in_order=self.pump.before_others,
        )
        self.inbox.handlers = {
            Hello: self.agents.hello,
            Results: self._open_results,
            ManyResults: self._open_bundled_results,
            Message: self._message,
            Started: self._started,
            OutputText: self.output_arrived,
            Locate: self._where_is,
            Ask: self._ask,
            GivenBack: self.kill_and_cancel.given_back,
            SlotEnded: self.agents.slot_ended,
            Rescued: self.agents.rescued,
            HousekeepingDone: self.agents.housekeeping_done,
        }
        if engine.agent_here is None or engine.patience() is not None:  # the engine has arrivals
            self.pump.attach(engine, self.arrived)
        self.pump.at_turn_end.append(self.end_turn)
        self.pump.due.append(self._due)
        self.pump.broken = self.fail

    # Spawning

    def spawn(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: SpawnOptions,
    ) -> TaskRecord:
        """Take a call, which starts in a later turn; for any thread.

        Raises the errors of `Cluster.spawn`.
        """
        if self.closed:
            self.check_open()
        if self.failure is not None:
            raise self.failure
        checked = options.ready or options.checked()
        if self.inline:
            self._check_inline(checked)
        if checked.need is not PLAIN and (self.scheduler.hosts or not self.engine.elastic):
            self.scheduler.check(checked.need)
        functions = self.functions
        if checked.initializer is not None:
            functions = functions.of(checked.initializer)
        found, args = functions.find(function, args)
        record = TaskRecord(
            next(self._numbers), self.kill_and_cancel, found, (args, kwargs), checked
        )
        if checked.at_once:
            record.pickled = self._pickled_now(record)
        self.incoming.append(record)
        return record

    def spawn_soon(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: SpawnOptions,
    ) -> SpawnedTask:
        """`spawn`, and send the call from this thread if a slot is free or many calls wait."""
        task = self.spawn(function, args, kwargs, options).future
        if self.ended:  # since `spawn` has checked
            self.abandon()
        if not task.id % _EAGER:
            self.pump.nudge(_PATIENCE)
        elif self.scheduler.idle:
            self.pump.nudge()
        elif (services := self.services) is not None and services.servers >= self.scheduler.slots:
            services.warn_if_occupied()
        return task

    def check_open(self) -> None:
        """Raise `ClusterClosed` if nothing new is accepted."""
        if self.closed:
            raise ClusterClosed(FORKED) if self.pump.elsewhere else ClusterClosed

    def _check_inline(self, options: CheckedOptions) -> None:
        """Raise if inline tasks cannot have these options."""
        for what, wanted in (
            ("a fresh interpreter", options.fresh),
            ("a time limit", options.time_limit is not None),
            ("separate GPUs", options.need.gpus and self.kind is SlotKind.THREAD),
        ):
            if wanted:
                what = f"give inline tasks {what}"
                raise UnsupportedByEngine(self.engine.name, what, NOT_INLINE)

    # One turn of the pump

    def end_turn(self) -> None:
        """Assign waiting tasks, and send what is queued."""
        scheduler = self.scheduler
        if self.incoming:
            self.register_spawned()
            if self.failure is not None:  # perhaps since `spawn` has checked
                self.fail(self.failure)
            if self.agents.has_lost:  # perhaps since `spawn` checked the hosts
                self.agents.end_unmet()
        if scheduler.slots:
            # Repeated, because a call that cannot be sent leaves its slot free.
            while (scheduler.plain or scheduler.needy) and (assigned := scheduler.assign()):
                for slot, tasks in assigned:
                    self._run(slot, tasks)
            idle = 0 if self.services is None else self.services.idle_servers
            busy = scheduler.slots - scheduler.idle - idle
            self.pump.eager = self._has_slots_here and not scheduler.ahead and busy < self._cores
            self.pump.rest = REST if scheduler.ahead > MANY * scheduler.slots else 0.0
            if scheduler.idle and scheduler.ahead:
                self.kill_and_cancel.unstick_soon()
        if self.outbox.waiting:
            self.outbox.flush()
        if self.messages.waiters:
            self.messages.call_waiters(failed=self.failure is not None)

    def _due(self) -> bool:
        """Whether a turn with only messages still needs its end."""
        return bool(self.incoming or self.outbox.waiting or self.messages.awaited)

    def register_spawned(self) -> None:
        """Queue the spawned tasks. Other threads only append to ``incoming``, in one step."""
        incoming = self.incoming
        while incoming:
            task = incoming[0]
            self.tasks[task.id] = task
            self.scheduler.put(task)
            incoming.popleft()

    def known(self) -> list[TaskRecord]:
        """The tasks that have not ended; for the driving thread."""
        self.register_spawned()
        return list(self.tasks.values())

    def record(self, task: SpawnedTask) -> TaskRecord | None:
        """The record of a task, None if it has ended; for the driving thread."""
        self.register_spawned()
        return self.tasks.get(task.id)

    def why_waits(self, task: int) -> str:
        """Why a task has not begun, in words, empty if that is not known; from any thread."""
        record, scheduler = self.tasks.get(task), self.scheduler
        if record is not None and (slot := record.slot) is not None:
            return f"it was sent to {slot.host.name}, where another task runs before it"
        if not scheduler.slots:
            return "no slot has started yet"
        if self.services is not None and self.services.occupy_all_slots:
            return f"servers of {self.services.names} occupy all slots"
        if not scheduler.idle:
            return "all slots are occupied"
        if record is not None and record.options.need != PLAIN:
            return "no host has everything free that it needs"
        return ""

    def all_agents(self) -> list[AgentRecord]:
        """All agents."""
        return list(self.agents.by_number.values())

    def slots_changed(self) -> None:
        """Handle a change of the number of slots."""
        if self.services is not None:
            self.services.hosts_changed()

    def put_back(self, records: list[TaskRecord], slot: SlotRecord) -> None:
        """Queue tasks that slots have given back; those that are to be cancelled end."""
        self.kill_and_cancel.put_back(records, slot)

    def send(self, to: int, payload: Parts) -> None:
        """Send a message of the program to a task; for the driving thread."""
        self.register_spawned()
        self.messages.send(to, SPAWNER, payload)

    def arrived(self, arrival: Arrival) -> None:
        """Handle what the engine receives."""
        if isinstance(arrival, Frame):
            self.inbox.receive(arrival.sender, arrival.parts)
        elif isinstance(arrival, Joined):
            self.agents.joined(arrival.agent, arrival.by)
        elif isinstance(arrival, Left):
            self.agents.left(arrival.agent, arrival.why)

    @staticmethod
    def _note_answer(agent: AgentRecord) -> None:
        agent.answered = True

    def from_agent_here(self, number: int) -> Callable[[Any, Parts], None]:
        """A function that an agent in this process calls with its envelopes, without a network.

        They are handled later, after earlier ones, since the agent may be in the middle of a step.
        """
        self.agents.joined(number, "")
        handle, pending = self.inbox.handle, self.pump.pending

        def handle_later(envelope: Any, parts: Parts) -> None:
            pending.append((handle, (number, envelope, parts)))

        return handle_later

    # Sending calls

    def _run(self, slot: SlotRecord, tasks: list[TaskRecord]) -> None:
        """Send calls to a slot; a call that cannot be pickled fails alone."""
        functions = self.functions
        calls: list[Call] = []
        buffers: Parts = []
        sent: list[TaskRecord] = []
        for task in tasks:
            try:
                payload, large = task.pickled or functions.pickled(
                    task.function, task.arguments, task.id
                )
                setup = b"" if task.options.plain else self.setups.of(task)
            except BaseException as exc:  # noqa: BLE001 - pickling runs the arguments' own code
                self._fail_unsent(slot, task, exc)
                continue
            sent.append(task)
            calls.append((task.id, task.function.number, payload, len(large), setup))
            if large:
                buffers += own(large) if self._shares_memory else large
        if calls:
            fresh = tasks[0].options.fresh
            new = self._new_functions(sent, () if fresh else slot.known)
            run = Run(slot.number, len(calls), list(new), fresh, slot.life, slot.next_run())
            if not fresh and slot.changes != functions.kept.changes:
                run.dropped = self._dropped(slot)
            settings = b"" if self._shares_memory else self.program_settings.now()
            if fresh or settings != slot.settings:
                run.settings = settings
            parts = [encode(run), encode(calls), *new.values(), *buffers]
            if self.slots_here is None:
                self.outbox.post(slot.agent, parts)
            else:
                self.slots_here[slot.number].give(run, parts)
            if not fresh:
                slot.knows(new, settings)
            self.begins(slot)

    def _pickled_now(self, task: TaskRecord) -> tuple[bytes, Parts]:
        """The arguments of a call in their present state. Raises `CannotTravel`; for any thread."""
        try:
            payload, large = self.functions.pickled(task.function, task.arguments, task.id)
            return payload, own(large)
        except Exception as exc:
            if isinstance(exc, CannotTravel) or by_signal(exc):
                raise
            raise _unsendable(task, exc) from exc

    def _new_functions(self, tasks: list[TaskRecord], known: Container[int]) -> dict[int, bytes]:
        """The functions and initializers that a slot does not have yet."""
        new: dict[int, bytes] = {}
        for task in tasks:
            function, initializer = task.function, task.options.initializer
            if function.number not in known:
                new[function.number] = function.payload
            if initializer is not None:
                function = self.setups.function_of(initializer)
                if function.number not in known:
                    new[function.number] = function.payload
        return new

    def _dropped(self, slot: SlotRecord) -> list[int]:
        """Functions that a slot is to forget, because no call that it has needs them."""
        kept = self.functions.kept
        alive = kept.numbers.keys() | self.setups.kept.keys()
        gone = slot.known - alive
        wanted = {task.function.number for task in slot.tasks} if gone else set()
        slot.forgets(gone - wanted)
        if not gone & wanted:
            slot.changes = kept.changes
        return list(gone - wanted)

    def _fail_unsent(self, slot: SlotRecord, task: TaskRecord, exc: BaseException) -> None:
        self.scheduler.ended(slot, task)
        error = _unsendable(task, exc)
        if error is not exc:
            error.__cause__ = exc
        self.end(task, False, error)

    def begins(self, slot: SlotRecord) -> None:
        """Record that the first of the calls at a slot is running.

        This is unknown while the slot is asked to give back calls.
        """
        if slot.tasks and not slot.ticket:
            task = slot.tasks[0]
            if task.state is SENT:
                task.begins()
            if self.messages.early:
                self.messages.begins(task)

    # Results

    def _open_results(self, agent: AgentRecord, envelope: Results, parts: Parts) -> None:
        slot = agent.slots[envelope.slot]
        if len(envelope.results) == 1:
            self._settle_one(slot, envelope.results[0], parts[1:], last=True)
            return
        results, at = deque[tuple[CallResult, Parts]](), 1
        for result in envelope.results:
            _, _, _, _, count = result
            results.append((result, parts[at : at + count]))
            at += count
        self._settle_all((slot, results))

    def _open_bundled_results(
        self, agent: AgentRecord, envelope: ManyResults, parts: Parts
    ) -> None:
        slot = agent.slots[envelope.slot]
        arrivals = [result for part in parts[1:] for result in decode(part).results]
        self._settle_all((slot, deque(zip(arrivals, repeat(_NO_BUFFERS)))))

    def _settle_all(self, arrivals: tuple[SlotRecord, deque[tuple[CallResult, Parts]]]) -> None:
        """Take results; a turn inside a callback continues with the rest."""
        slot, results = arrivals
        if len(results) > 1:
            self.pump.before_others(self._settle_all, [arrivals])
        while results:
            result, buffers = results.popleft()
            self._settle_one(slot, result, buffers, last=not results)

    def _settle_one(
        self, slot: SlotRecord, result: CallResult, buffers: Parts, *, last: bool
    ) -> None:
        """Handle a result; after the ``last`` of several, another call has started at the slot."""
        number, good, seconds, payload, _ = result
        task = self.tasks.get(number)
        if task is None or task.slot is not slot:
            if last:
                self.begins(slot)
            return
        if task.state is SENT:  # its result arrived together with the previous call's
            task.ran(slot)
        if seconds >= 0:
            task.function.timing.took(seconds)
        self.scheduler.ended(slot, task)
        if last and slot.tasks:  # first, because the rest may run callbacks, which may wait
            self.begins(slot)
        if good and payload == _NONE and not task.options.staged:
            self.end(task, True, None)
        else:
            if buffers and task.options.notify:  # a large result
                self.messages.keeps(sum(memoryview(part).nbytes for part in buffers))
            self._unpickle_result(task, slot, good, disclosed(payload, buffers))

    def _unpickle_result(self, task: TaskRecord, slot: SlotRecord, good: bool, body: Parts) -> None:
        if not good:
            self._failed(task, slot, *load_failure(body))
            return
        try:
            value = load(body)
        except BaseException as exc:  # noqa: BLE001 - unpickling runs the value's own code
            cause = f"its result cannot be unpickled here: {words_of(exc)}"
            self._failed(task, slot, RuntimeError(cause), traceback_of(exc))
            return
        if task.options.staged:
            self._publish(task, slot, value)
        else:
            self.end(task, True, value)

    def _publish(self, task: TaskRecord, slot: SlotRecord, result: FolderResult) -> None:
        """Publish the files of a call that had a folder, in the disk thread; then end the task."""

        def publish() -> None:
            staged, error = self.setups.accepted(task, result.staged)
            if error is not None and not result.failure:
                unstage(staged)
                raise error
            deliver_one(staged, lenient=bool(result.failure))

        def done(_: Any, error: BaseException | None) -> None:
            if result.failure:  # the call's own error matters more
                self._failed(task, slot, *load_failure(result.failure), left=result.left)
            else:
                self.end(task, error is None, result.value if error is None else error)

        if result.staged:
            self.disk_thread.run(publish, done)
        else:
            done(None, None)

    def _failed(
        self,
        task: TaskRecord,
        slot: SlotRecord,
        error: BaseException,
        text: str,
        *,
        left: bool = False,
    ) -> None:
        kind = type(error)  # `isinstance` would run the error's own code
        if kind is NotImportable and self._again_by_value(task, error.module):  # type: ignore[attr-defined]
            return
        if kind is NotBegun:
            self.waits_again(task)
            self.kill_and_cancel.put_back([task], slot)
            return
        if kind is Stopped:
            error = task.why_ended(slot, None, "its slot was asked to end")
            if left:
                self.agents.end_after_rescue(task, slot, error)
                return
        elif kind is NotImportable:
            module = error.module  # type: ignore[attr-defined]
            error = ModuleNotFoundError(
                f"the host {slot.host.name} has no module {module!r}; install it there"
            )
        else:
            head = f"{task.name} on {slot.host.name}, slot {slot.number}:\n"
            BaseException.__setattr__(error, "__cause__", RemoteTraceback(head + text))
        self.end(task, False, error)

    def waits_again(self, task: TaskRecord) -> None:
        """Queue a task again that its slot has given back without having started it."""
        task.waits_again()
        self.messages.prepared.pop(task.id, None)

    def _again_by_value(self, task: TaskRecord, module: str) -> bool:
        functions = self.functions.of(task.options.initializer)
        again = functions.again_by_value(task.function, module)
        if again is None:
            return False
        task.by_value(again)
        self.waits_again(task)
        self.scheduler.put_back([task])
        return True

    def end(self, task: TaskRecord, good: bool, value: Any) -> None:
        """End a task: set its future, and queue its events if wanted."""
        if self.tasks.pop(task.id, None) is None:
            return
        self._forget(task, good, value)
        options = task.options
        if options.staged and (files := self.setups.forget(task)) is not None:
            self.disk_thread.run(files.close, _ignore)
        if options.notify:
            self.messages.put_end(task.id, good, value)
        if good:
            task.future.set_result(value)
        else:
            task.future.set_exception(value)

    def cancelled(self, task: TaskRecord) -> None:
        """Cancel a waiting task."""
        if self.tasks.pop(task.id, None) is None:
            return
        error = CancelledError()
        self._forget(task, False, error)
        set_cancelled(task.future)
        if task.options.notify:
            self.messages.put_end(task.id, False, error)

    def _forget(self, task: TaskRecord, good: bool, value: Any) -> None:
        task.ended()
        if self.messages.prepared or self.messages.early:
            self.messages.forget(task)
        if self.task_outputs.outputs:
            self.task_outputs.forget(task)
        if self.services is not None:
            self.services.ended(task, good, value)

    def output_arrived(self, agent: AgentRecord, envelope: OutputText, parts: Parts) -> None:
        """Handle the output of a task."""
        if (task := self.tasks.get(envelope.task)) is not None:
            self.task_outputs.output_arrived(task, envelope)

    def _started(self, agent: AgentRecord, envelope: Started, parts: Parts) -> None:
        task = self.tasks.get(envelope.task)
        if task is not None and (limit := task.options.time_limit) is not None:
            self._watch(task.id, limit)  # by number, because the task may end long before

    def _watch(self, number: int, left: float) -> None:
        """End a task after its time limit; time while this process was stopped does not count."""
        piece, began = min(left, NOTICED), time.monotonic()

        def look() -> None:
            passed = min(time.monotonic() - began, piece + NOTICED)
            if left > passed and number in self.tasks:
                self._watch(number, left - passed)
            else:
                self._time_is_over(number)

        self.pump.call_later(piece, look)

    def _time_is_over(self, number: int) -> None:
        task = self.tasks.get(number)
        if task is not None:
            self.kill_and_cancel.stop(task, Cause.TIME)

    # Messages and questions of tasks

    def _message(self, agent: AgentRecord, envelope: Message, parts: Parts) -> None:
        if envelope.to != SPAWNER:
            self.messages.send(envelope.to, envelope.sender, parts[1:], envelope.port)
        elif not envelope.port:
            self.messages.put(envelope.sender, parts[1:])
        elif self.services is not None:
            self.services.arrived(envelope.sender, parts[1:])

    def _where_is(self, agent: AgentRecord, envelope: Locate, parts: Parts) -> None:
        where = Location(envelope.slot, envelope.task, *self.messages.slot_of(envelope.task))
        self.outbox.post(agent.number, [encode(where)])

    def _ask(self, agent: AgentRecord, envelope: Ask, parts: Parts) -> None:
        task = self.tasks.get(envelope.task)

        def done(answer: Any, error: BaseException | None) -> None:
            head = encode(Answer(envelope.slot, envelope.ticket, error is None))
            value = answer if error is None else portable_error(error)
            self.outbox.post(agent.number, [head, *dump(value)])

        self.disk_thread.run(lambda: self.setups.answer(task, load(parts[1:])), done)

    # Closing

    def forget(self, initializer: object) -> None:
        """Drop the initializer of an executor that has ended."""
        self.functions.forget(initializer)
        self.setups.drop(initializer)

    def abandon(self) -> None:
        """End all remaining tasks when the cluster is closed."""
        for task in self.known():
            if task.state is WAITING:
                self.cancelled(task)
            else:
                killed = TaskKilled(task.label, task.future.host or "its host")
                self.end(task, False, task.error or killed)

    def fail(self, exc: Exception) -> None:
        """Fail everything after a failure of the engine."""
        failure = exc if isinstance(exc, EngineFailed) else None
        if failure is None:
            why = str(exc) if isinstance(exc, EncampError) else reason(exc)
            failure = EngineFailed(self.engine.name, why)
            failure.__cause__ = exc
        self.failure = failure
        for task in self.known():
            lost = TaskLost(task.label, "its host", None, failure.why)
            self.end(task, False, task.error or lost)


def _unsendable(task: TaskRecord, exc: BaseException) -> CannotTravel:
    """Why a call's arguments cannot be sent."""
    if isinstance(exc, CannotTravel):
        return exc
    named = name_of_called(task.function, task.arguments[0])
    return CannotTravel(f"an argument of {named}", text_of(exc))


def _ignore(*_: object) -> None:
    """The callback of disk work that needs none."""
