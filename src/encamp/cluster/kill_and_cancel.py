"""Taking calls back from slots, and ending them there: kills, cancels, and overdue calls.

The controller first asks the slot, which answers which calls it gives back and which one it is
running, so that a kill never hits a call that has just started. If a slot is in compiled code and
does not answer, its agent ends it after a while.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

from encamp.cluster.hosts_join_and_leave import AgentRecord
from encamp.cluster.records import SENT, WAITING, Cause, SlotRecord, TaskRecord
from encamp.cluster.scheduler import Scheduler
from encamp.cluster.task import SpawnedTask
from encamp.errors import UnsupportedByEngine
from encamp.loop.pump import Pump
from encamp.timeouts import ANSWERS
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import GivenBack, Recall, Stop, encode

_AGAIN = 0.01
"""Seconds after which a slot that was between two calls is asked again."""
_STUCK = 0.05
"""Seconds after which tasks behind a long call are moved to idle slots."""
NOT_INLINE = "make the cluster without inline=True"
"""The remedy in errors about inline tasks."""


class ControllerForKills(Protocol):
    """The part of the controller that kills and cancels need."""

    def known(self) -> list[TaskRecord]:
        """The tasks that have not ended."""

    def record(self, task: SpawnedTask) -> TaskRecord | None:
        """The record of a task; None if it has ended."""

    def all_agents(self) -> Iterable[AgentRecord]:
        """All agents."""

    def begins(self, slot: SlotRecord) -> None:
        """Called when the first of the calls at a slot is the running one."""

    def waits_again(self, record: TaskRecord) -> None:
        """Called with a task that its slot has given back without having started it."""

    def end(self, record: TaskRecord, good: bool, value: Any) -> None:
        """Called when a task has ended."""

    def cancelled(self, record: TaskRecord) -> None:
        """Called when a waiting task is cancelled."""

    def why_waits(self, task: int) -> str:
        """Why a task has not begun, in words; from any thread."""


class KillAndCancel:
    """A controller's kills and cancels, in the thread that drives its pump unless stated otherwise.

    ``inline`` is the engine's name if slots are agents, which cannot be killed; otherwise empty.
    """

    def __init__(
        self,
        controller: ControllerForKills,
        scheduler: Scheduler,
        pump: Pump,
        outbox: Outbox,
        inline: str,
    ) -> None:
        self._controller, self._scheduler, self._outbox = controller, scheduler, outbox
        self.pump = pump
        self._inline = inline
        self._tickets = itertools.count(1)
        self._polling = False
        """Whether `_unstick` will be called soon."""

    def stop(self, task: TaskRecord, why: Cause) -> None:
        """End a running task; first asks the slot what it runs, so that no other task is hit."""
        slot = self._closed_for(task, why)
        if slot is not None:
            self.recall(slot)
            self.pump.call_later(ANSWERS, lambda: self._stop_unasked(task, slot))

    def stop_at_once(self, task: TaskRecord, why: Cause) -> None:
        """End a running task that is alone in its slot, without asking the slot."""
        slot = self._closed_for(task, why)
        if slot is not None:
            self._stop(slot)

    def _closed_for(self, task: TaskRecord, why: Cause) -> SlotRecord | None:
        """The slot of a task that is to end, now closed; None if the task does not run."""
        slot = task.slot
        if slot is not None:
            task.end_soon(why)
            self._scheduler.close(slot)
        return slot

    def recall(self, slot: SlotRecord) -> None:
        """Ask a slot to give back the calls that it has not started."""
        slot.recalled(next(self._tickets))
        self._outbox.post(slot.agent, [encode(Recall(slot.number, slot.ticket))])

    def _stop_unasked(self, task: TaskRecord, slot: SlotRecord) -> None:
        """Handle a slot that does not answer: it is in compiled code, so still in the same call.

        Its agent knows whether this is true; perhaps only the network is slow.
        """
        if task.slot is slot and slot.tasks and slot.tasks[0] is task and slot.ticket:
            self._stop(slot, slot.ticket)

    def _stop(self, slot: SlotRecord, ticket: int = 0) -> None:
        """End a slot's process; it gets no tasks until there is a new one."""
        if not slot.stopping:
            slot.stops()
            self._outbox.post(slot.agent, [encode(Stop(slot.number, slot.life, ticket))])

    def given_back(self, agent: AgentRecord, envelope: GivenBack, parts: Parts) -> None:
        slot = agent.slots[envelope.slot]
        slot.answered(envelope.ticket)
        back = set(envelope.tasks)
        returned = [task for task in slot.tasks if task.id in back]
        for task in reversed(returned):
            self._scheduler.ended(slot, task)
            self._controller.waits_again(task)
        self.put_back(returned, slot)
        self._controller.begins(slot)
        targets = [] if self._inline else [task for task in slot.tasks if task.cause]
        if slot.stopping or slot.ticket:
            return  # a late or outdated answer does not open the slot
        if any(task.id == envelope.running for task in targets):
            self._stop(slot)
        elif targets and slot.tasks[0].cause:  # between two calls when it was asked
            self.pump.call_later(_AGAIN, lambda: self.recall(slot))
        elif not agent.refreshing:
            self._scheduler.open(slot)

    def put_back(self, tasks: list[TaskRecord], slot: SlotRecord) -> None:
        """Queue tasks that were given back; those that are to be cancelled end.

        The latter end last, because their callbacks may use what must be consistent by then.
        """
        goes_on: list[TaskRecord] = []
        over: list[tuple[TaskRecord, SlotRecord]] = []
        for task in tasks:
            if task.cause or task.unwanted:
                over.append((task, slot))
            else:
                goes_on.append(task)
        self._scheduler.put_back(goes_on)
        self.pump.before_others(self._ends, over)

    def _ends(self, ended: tuple[TaskRecord, SlotRecord]) -> None:
        task, slot = ended
        if task.cause:
            self._controller.end(task, False, task.why_ended(slot, None, ""))
        else:
            self._controller.cancelled(task)

    def unstick_soon(self) -> None:
        """Check soon whether tasks wait behind long calls, unless this is planned already."""
        if not self._polling:
            self._polling = True
            self.pump.call_later(_STUCK, self._unstick)

    def _unstick(self) -> None:
        """Move tasks that wait behind long calls to idle slots."""
        self._polling = False
        if not self._scheduler.idle or not self._scheduler.ahead:
            return
        for agent in self._controller.all_agents():
            for slot in agent.slots:
                if len(slot.tasks) > 1 and not slot.closed and not slot.ticket:
                    self.recall(slot)

    def kill(self, task: SpawnedTask) -> None:
        """End a running task; from any thread."""
        if self._inline:
            raise UnsupportedByEngine(self._inline, "end inline tasks", NOT_INLINE)

        def kill() -> None:
            if (record := self._controller.record(task)) is not None:
                self.stop(record, Cause.KILLED)

        self.pump.call(kill)

    def why_waits(self, task: SpawnedTask) -> str:
        """See `ControllerForKills.why_waits`."""
        return self._controller.why_waits(task.id)

    def kill_all(self) -> None:
        """Cancel waiting tasks and kill running ones at once, so that none starts in between."""
        slots: dict[SlotRecord, None] = {}
        waiting: list[TaskRecord] = []
        for task in self._controller.known():
            if task.state is WAITING:
                waiting.append(task)
            elif (slot := task.slot) is not None:  # otherwise its outputs are being published
                slots[slot] = None
                if not (self._inline and task is slot.tasks[0]):
                    task.end_soon(Cause.KILLED)
        for slot in slots:
            self._scheduler.close(slot)
            self.recall(slot)
            if not self._inline:
                head = slot.tasks[0]
                self.pump.call_later(ANSWERS, partial(self._stop_unasked, head, slot))
        self.cancel(waiting)
        if self._inline and slots:
            raise UnsupportedByEngine(self._inline, "end inline tasks", NOT_INLINE)

    def cancel(self, waiting: list[TaskRecord]) -> None:
        """Cancel waiting tasks."""
        self._scheduler.drop(waiting)
        for task in waiting:  # last, because their callbacks may wait for other tasks
            self._controller.cancelled(task)

    def take_back_all(self, tasks: Iterable[SpawnedTask]) -> None:
        """Cancel tasks that have not started; from any thread, blocks while slots are asked."""
        left = deque(self.pump.call(lambda: self._cancel_waiting(tasks)))

        def answered() -> bool:
            while left and left[0].state is not SENT:
                left.popleft()
            return not left

        if left:
            asked = list(left)
            self.pump.until(answered, ANSWERS)
            self.pump.call(lambda: self._let_continue(asked))

    def take_back_soon(self, tasks: Iterable[SpawnedTask]) -> None:
        """The same without waiting, and without a result."""

        def take_back() -> None:
            asked = self._cancel_waiting(tasks)
            self.pump.call_later(ANSWERS, lambda: self._let_continue(asked))

        self.pump.call_soon(take_back)

    def _cancel_waiting(self, tasks: Iterable[SpawnedTask]) -> list[TaskRecord]:
        """Cancel tasks that wait here, and ask slots for the rest, which are returned."""
        elsewhere: list[TaskRecord] = []
        for task in tasks:
            record = self._controller.record(task)
            if record is None:
                continue
            if record.state is WAITING:
                self._controller.cancelled(record)
            elif record.state is SENT:
                record.cancel_if_given_back()
                elsewhere.append(record)
        for slot in dict.fromkeys(record.slot for record in elsewhere):
            if slot is not None and not (slot.closed and slot.ticket):
                self.recall(slot)
        return elsewhere

    @staticmethod
    def _let_continue(records: Iterable[TaskRecord]) -> None:
        """Let tasks continue that have started in the meantime, or whose slot does not answer."""
        for record in records:
            record.cancel_if_given_back(False)
