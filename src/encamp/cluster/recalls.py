"""Calls that slots give back, or that are ended there: kills, cancels, and what waits too long.

A slot is asked first: it says which of its calls it lets go, and which one it is running, so that
nothing is ended that has just begun. One that is deep in compiled code says nothing; its agent
ends it after a while.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from encamp.agent.hosted import ANSWER_WITHIN
from encamp.cluster.events import TaskExit, TaskResult
from encamp.cluster.scheduler import Place
from encamp.cluster.task import Task
from encamp.errors import (
    EncampError,
    TaskKilled,
    TaskLost,
    TimeLimitExceeded,
    UnsupportedByEngine,
)
from encamp.wire.protocol import GivenBack, Recall, Stop, encode

if TYPE_CHECKING:
    from encamp.cluster.controller import Controller
    from encamp.cluster.hosts import Agent
    from encamp.wire.frames import Parts

_AGAIN = 0.01
"""Seconds after which a slot that was between two calls is asked once more."""
_STUCK = 0.05
"""Seconds after which what waits behind a long call goes elsewhere, if there is room."""
NOT_INLINE = "make the cluster without inline=True"
"""What to do where inline tasks cannot have something."""


class Recalls:
    """Of one controller; for the thread that drives its pump, where nothing else is said."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._scheduler = controller.scheduler
        self._pump = controller.pump
        self._outbox = controller.outbox
        self._mail = controller.mail
        self._tickets = itertools.count(1)
        self._looking = False
        """Whether `_unstick` is to be called soon."""

    def stop(self, task: Task, why: str) -> None:
        """End a task that runs; its slot is asked what it runs first, so that no other is hit."""
        place = self._closed_for(task, why)
        if place is not None:
            self.recall(place)
            self._pump.later(ANSWER_WITHIN, lambda: self._stop_unasked(task, place))

    def stop_at_once(self, task: Task, why: str) -> None:
        """End a task that runs and shares its slot with no other, so that it need not be asked."""
        place = self._closed_for(task, why)
        if place is not None:
            self._stop(place)

    def _closed_for(self, task: Task, why: str) -> Place | None:
        """The slot of a task that is to end, which gets no more; None if the task does not run."""
        place: Place | None = task._place
        if place is None or task.done():
            return None
        task._end = task._end or why
        self._scheduler.close(place)
        return place

    def recall(self, place: Place) -> None:
        """Ask a slot to give back what it has not begun."""
        place.ticket = next(self._tickets)
        self._outbox.post(place.agent, [encode(Recall(place.number, place.ticket))])

    def _stop_unasked(self, task: Task, place: Place) -> None:
        """The slot says nothing: it is deep in compiled code, so it has not gone on either.

        Its agent knows whether that is so; it may be the way there that is slow.
        """
        if task._place is place and place.ahead and place.ahead[0] is task and place.ticket:
            self._stop(place, place.ticket)

    def _stop(self, place: Place, ticket: int = 0) -> None:
        """End a slot's process; it gets nothing more to do until there is a new one."""
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
        targets = [] if self._controller.inline else [task for task in place.ahead if task._end]
        if place.stopping or place.ticket:
            return  # what it says late is no reason to give it more, nor what is not its last word
        if any(task.id == envelope.running for task in targets):
            self._stop(place)
        elif targets and place.ahead[0]._end:  # between two calls when it was asked
            self._pump.later(_AGAIN, lambda: self.recall(place))
        elif not agent.refreshing:
            self._scheduler.open(place)

    def put_back(self, tasks: list[Task], place: Place) -> None:
        """Let tasks that were given back wait; those that are not to run any more end.

        These come next: what their callbacks wait for must be in order before.
        """
        goes_on: list[Task] = []
        over: list[tuple[Task, Place]] = []
        for task in tasks:
            if task._end or task._unwanted:
                over.append((task, place))
            else:
                goes_on.append(task)
        self._scheduler.put_back(goes_on)
        self._pump.before_others(self._ends, over)

    def _ends(self, come: tuple[Task, Place]) -> None:
        task, place = come
        if task._end:
            self._controller.end(task, False, why_ended(task, place, None, ""))
        else:
            self.cancelled(task)

    def unstick_soon(self) -> None:
        """Look in a moment whether something waits behind long calls, unless that is to be done."""
        if not self._looking:
            self._looking = True
            self._pump.later(_STUCK, self._unstick)

    def _unstick(self) -> None:
        """Let what waits behind long calls go to slots that have nothing to do."""
        self._looking = False
        if not self._scheduler.idle or not self._scheduler.ahead:
            return
        for agent in self._controller.hosts.agents.values():
            for place in agent.places:
                if len(place.ahead) > 1 and not place.closed and not place.ticket:
                    self.recall(place)

    def kill(self, task: Task) -> None:
        """End a running task; from any thread."""
        if self._controller.inline:
            raise UnsupportedByEngine(self._controller.engine.name, "end inline tasks", NOT_INLINE)
        self._pump.call(lambda: self.stop(task, "killed"))

    def kill_all(self) -> None:
        """Cancel what waits and end what runs, all at once, so that nothing begins meanwhile."""
        places: dict[Place, None] = {}
        waiting: list[Task] = []
        for task in self._controller.known():
            place: Place | None = task._place
            if place is None:
                if task._state == "PENDING":  # otherwise its outputs are being published
                    waiting.append(task)
                continue
            places[place] = None
            if not (self._controller.inline and task is place.ahead[0]):
                task._end = task._end or "killed"
        for place in places:
            self._scheduler.close(place)
            self.recall(place)
            if not self._controller.inline:
                head = place.ahead[0]
                self._pump.later(ANSWER_WITHIN, functools.partial(self._stop_unasked, head, place))
        self._scheduler.drop(waiting)
        for task in waiting:  # last, for their callbacks may wait for others
            self.cancelled(task)
        if self._controller.inline and places:
            raise UnsupportedByEngine(self._controller.engine.name, "end inline tasks", NOT_INLINE)

    def take_back(self, task: Task) -> bool:
        """Cancel a task if it has not begun; from any thread, blocks while its slot is asked."""
        self.take_back_all([task])
        return task.cancelled()

    def take_back_all(self, tasks: Iterable[Task]) -> None:
        """The same for many, whose slots are asked at the same time."""
        left = deque(self._pump.call(lambda: self._cancel_waiting(tasks)))

        def answered() -> bool:
            while left and (left[0]._place is None or left[0]._state != "PENDING"):
                left.popleft()
            return not left

        if left:
            asked = list(left)
            self._pump.until(answered, ANSWER_WITHIN)
            self._pump.call(lambda: self._cancel_no_more(asked))

    def take_back_soon(self, tasks: Iterable[Task]) -> None:
        """The same without waiting for it, and without saying what was cancelled."""

        def take_back() -> None:
            asked = self._cancel_waiting(tasks)
            self._pump.later(ANSWER_WITHIN, lambda: self._cancel_no_more(asked))

        self._pump.soon(take_back)

    def _cancel_waiting(self, tasks: Iterable[Task]) -> list[Task]:
        """Cancel what waits here, and ask for the rest; that is what is returned."""
        elsewhere: list[Task] = []
        self._controller.take_in()
        for task in tasks:
            if task.done() or task._state == "RUNNING":
                continue
            if task._place is None:
                self.cancelled(task)
            else:
                task._unwanted = True
                elsewhere.append(task)
        for place in dict.fromkeys(task._place for task in elsewhere):
            if not (place.closed and place.ticket):
                self.recall(place)
        return elsewhere

    def _cancel_no_more(self, tasks: Iterable[Task]) -> None:
        """What has begun meanwhile, or whose slot says nothing, runs."""
        for task in tasks:
            task._unwanted = False

    def cancelled(self, task: Task) -> None:
        """A task that waits is not to run."""
        if self._controller.tasks.pop(task.id, None) is not None:
            task._let_go()
            self._mail.forget(task)
            if self._controller.tenant is not None:
                self._controller.tenant.ended(task, False, CancelledError())
            task._cancelled()
            if task._options.notify:
                self._mail.put(task.id, TaskResult(task.id, False, CancelledError()))
                self._mail.put(task.id, TaskExit(task.id))


def why_ended(task: Task, place: Place, exit_code: int | None, why: str) -> EncampError:
    """What is told of a task whose slot was ended, or ended by itself."""
    if task._end == "killed":
        return TaskKilled(task.label, place.station.name)
    if task._end == "time" and task._options.time_limit is not None:
        return TimeLimitExceeded(task.label, None, task._options.time_limit)
    return TaskLost(task.label, place.station.name, exit_code, why)
