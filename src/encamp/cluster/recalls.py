"""Taking calls back from slots, and ending them there: kills, cancels, and overdue calls.

The controller first asks the slot, which says which calls it gives back and which one it is
running, so that a kill never hits a call that has just started. If a slot is in compiled code and
does not answer, its agent ends it after a while.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from encamp.agent.hosted import ANSWER_WITHIN
from encamp.cluster.agents import Agent
from encamp.cluster.records import SENT, WAITING, Cause, Place, Record
from encamp.cluster.scheduler import Scheduler
from encamp.cluster.task import SpawnedTask
from encamp.errors import UnsupportedByEngine
from encamp.loop.pump import Pump
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import GivenBack, Recall, Stop, encode

_AGAIN = 0.01
"""Seconds after which a slot that was between two calls is asked once more."""
_STUCK = 0.05
"""Seconds after which what waits behind a long call goes elsewhere, if there is room."""
NOT_INLINE = "make the cluster without inline=True"
"""What to do where inline tasks cannot have something."""


class Controls(Protocol):
    """What recalls need from their controller."""

    def known(self) -> list[Record]:
        """The tasks that have not ended."""

    def record(self, task: SpawnedTask) -> Record | None:
        """The record of a task; None if it has ended."""

    def all_agents(self) -> Iterable[Agent]:
        """The agents that there are."""

    def begins(self, place: Place) -> None:
        """The first of the calls at a slot is the running one."""

    def waits_again(self, record: Record) -> None:
        """A task that was sent to a slot has come back without having started."""

    def end(self, record: Record, good: bool, value: Any) -> None:
        """A task has ended."""

    def cancelled(self, record: Record) -> None:
        """A waiting task is cancelled."""


class Recalls:
    """Recalls of one controller, in the thread that drives its pump unless said otherwise.

    ``inline`` is the engine's name if slots are agents, which cannot be killed; otherwise empty.
    """

    def __init__(
        self, controller: Controls, scheduler: Scheduler, pump: Pump, outbox: Outbox, inline: str
    ) -> None:
        self._controller, self._scheduler, self._outbox = controller, scheduler, outbox
        self.pump = pump
        self._inline = inline
        self._tickets = itertools.count(1)
        self._looking = False
        """Whether `_unstick` is to be called soon."""

    def stop(self, task: Record, why: Cause) -> None:
        """End a running task; first asks the slot what it runs, so that no other task is hit."""
        place = self._closed_for(task, why)
        if place is not None:
            self.recall(place)
            self.pump.later(ANSWER_WITHIN, lambda: self._stop_unasked(task, place))

    def stop_at_once(self, task: Record, why: Cause) -> None:
        """End a running task that is alone in its slot, which need not be asked."""
        place = self._closed_for(task, why)
        if place is not None:
            self._stop(place)

    def _closed_for(self, task: Record, why: Cause) -> Place | None:
        """The slot of a task that is to end, now closed; None if the task does not run."""
        place = task.place
        if place is not None:
            task.end_soon(why)
            self._scheduler.close(place)
        return place

    def recall(self, place: Place) -> None:
        """Ask a slot to give back the calls that it has not started."""
        place.ticket = next(self._tickets)
        self._outbox.post(place.agent, [encode(Recall(place.number, place.ticket))])

    def _stop_unasked(self, task: Record, place: Place) -> None:
        """The slot does not answer: it is in compiled code, so it is still in the same call.

        Its agent knows whether this is true; perhaps only the network is slow.
        """
        if task.place is place and place.ahead and place.ahead[0] is task and place.ticket:
            self._stop(place, place.ticket)

    def _stop(self, place: Place, ticket: int = 0) -> None:
        """End a slot's process; it gets no tasks until there is a new one."""
        if not place.stopping:
            place.stopping = True
            self._outbox.post(place.agent, [encode(Stop(place.number, place.life, ticket))])

    def given_back(self, agent: Agent, envelope: GivenBack, parts: Parts) -> None:
        place = agent.places[envelope.slot]
        if envelope.ticket == place.ticket:
            place.ticket = 0
            place.stopping = False  # it has answered, so its agent does not end it unasked
        back = set(envelope.tasks)
        returned = [task for task in place.ahead if task.id in back]
        for task in reversed(returned):
            self._scheduler.ended(place, task)
            self._controller.waits_again(task)
        self.put_back(returned, place)
        self._controller.begins(place)
        targets = [] if self._inline else [task for task in place.ahead if task.cause]
        if place.stopping or place.ticket:
            return  # what it says late is no reason to give it more, nor what is not its last word
        if any(task.id == envelope.running for task in targets):
            self._stop(place)
        elif targets and place.ahead[0].cause:  # between two calls when it was asked
            self.pump.later(_AGAIN, lambda: self.recall(place))
        elif not agent.refreshing:
            self._scheduler.open(place)

    def put_back(self, tasks: list[Record], place: Place) -> None:
        """Queue tasks that were given back; those that are to be cancelled end.

        The latter come last: what their callbacks use must be consistent before.
        """
        goes_on: list[Record] = []
        over: list[tuple[Record, Place]] = []
        for task in tasks:
            if task.cause or task.unwanted:
                over.append((task, place))
            else:
                goes_on.append(task)
        self._scheduler.put_back(goes_on)
        self.pump.before_others(self._ends, over)

    def _ends(self, come: tuple[Record, Place]) -> None:
        task, place = come
        if task.cause:
            self._controller.end(task, False, task.why_ended(place, None, ""))
        else:
            self._controller.cancelled(task)

    def unstick_soon(self) -> None:
        """Look shortly whether tasks wait behind long calls, unless this is planned already."""
        if not self._looking:
            self._looking = True
            self.pump.later(_STUCK, self._unstick)

    def _unstick(self) -> None:
        """Move tasks that wait behind long calls to idle slots."""
        self._looking = False
        if not self._scheduler.idle or not self._scheduler.ahead:
            return
        for agent in self._controller.all_agents():
            for place in agent.places:
                if len(place.ahead) > 1 and not place.closed and not place.ticket:
                    self.recall(place)

    def kill(self, task: SpawnedTask) -> None:
        """End a running task; from any thread."""
        if self._inline:
            raise UnsupportedByEngine(self._inline, "end inline tasks", NOT_INLINE)

        def kill() -> None:
            if (record := self._controller.record(task)) is not None:
                self.stop(record, Cause.KILLED)

        self.pump.call(kill)

    def kill_all(self) -> None:
        """Cancel waiting tasks and kill running ones at once, so that none starts meanwhile."""
        places: dict[Place, None] = {}
        waiting: list[Record] = []
        for task in self._controller.known():
            if task.state is WAITING:
                waiting.append(task)
            elif (place := task.place) is not None:  # else its outputs are being published
                places[place] = None
                if not (self._inline and task is place.ahead[0]):
                    task.end_soon(Cause.KILLED)
        for place in places:
            self._scheduler.close(place)
            self.recall(place)
            if not self._inline:
                head = place.ahead[0]
                self.pump.later(ANSWER_WITHIN, functools.partial(self._stop_unasked, head, place))
        self.cancel(waiting)
        if self._inline and places:
            raise UnsupportedByEngine(self._inline, "end inline tasks", NOT_INLINE)

    def cancel(self, waiting: list[Record]) -> None:
        """Cancel waiting tasks."""
        self._scheduler.drop(waiting)
        for task in waiting:  # last, for their callbacks may wait for others
            self._controller.cancelled(task)

    def take_back_all(self, tasks: Iterable[SpawnedTask]) -> None:
        """Cancel those that have not begun; from any thread, blocks while their slots are asked."""
        left = deque(self.pump.call(lambda: self._cancel_waiting(tasks)))

        def answered() -> bool:
            while left and left[0].state is not SENT:
                left.popleft()
            return not left

        if left:
            asked = list(left)
            self.pump.until(answered, ANSWER_WITHIN)
            self.pump.call(lambda: self._cancel_no_more(asked))

    def take_back_soon(self, tasks: Iterable[SpawnedTask]) -> None:
        """The same without waiting, and without a result."""

        def take_back() -> None:
            asked = self._cancel_waiting(tasks)
            self.pump.later(ANSWER_WITHIN, lambda: self._cancel_no_more(asked))

        self.pump.soon(take_back)

    def _cancel_waiting(self, tasks: Iterable[SpawnedTask]) -> list[Record]:
        """Cancel tasks that wait here, and ask slots for the rest, which are returned."""
        elsewhere: list[Record] = []
        for task in tasks:
            record = self._controller.record(task)
            if record is None:
                continue
            if record.state is WAITING:
                self._controller.cancelled(record)
            elif record.state is SENT:
                record.unwanted = True
                elsewhere.append(record)
        for place in dict.fromkeys(record.place for record in elsewhere):
            if place is not None and not (place.closed and place.ticket):
                self.recall(place)
        return elsewhere

    @staticmethod
    def _cancel_no_more(records: Iterable[Record]) -> None:
        """Tasks that have started meanwhile, or whose slot does not answer, run on."""
        for record in records:
            record.unwanted = False
