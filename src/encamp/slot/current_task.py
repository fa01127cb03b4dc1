"""The task in which code runs, and what its slot does for it: messages, questions, notes."""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakSet

from encamp.loop.deferred_signals import if_task_has_any
from encamp.number_checks import as_whole, patience
from encamp.slot.connection import Connection
from encamp.slot.ledger import Ledger
from encamp.slot.small_messages import BRIEF, PreparedSends
from encamp.wire.frames import Parts
from encamp.wire.pickling import dump, dump_as, dump_small, load, load_small
from encamp.wire.protocol import (
    NOWHERE,
    SPAWNER,
    Ask,
    Locate,
    Received,
    SupervisorMessage,
    addressed,
    encode,
)

_MOST_TASKS = 1 << 63
MOST_PREPARED = 1000
"""Maximum number of receivers that a task has prepared sends for."""
FORKED = -2
"""The running task's number in a process that a call has forked."""
_WITH_CONTROLLER = NOWHERE, NOWHERE, 0
_thread = threading.get_ident


class TaskSlot:
    """The part of a slot that code in its running task uses. ``number`` is its number on its host.

    `Slot` adds running the calls.
    """

    def __init__(
        self, number: int, host: str, connection: Connection, agent: int = 0, cluster: str = ""
    ) -> None:
        self.number, self.host, self.agent, self.cluster = number, host, agent, cluster
        self.connection = connection
        _slots.add(self)
        self.in_program = False
        """Whether it is a thread of the program that has spawned the tasks."""
        self.thread = threading.get_ident()
        """The only thread that may use the shortcut for small messages."""
        self.lock = threading.Lock()
        """Must be held to change ``calls`` or ``running``."""
        self.running = -1
        self._task: CurrentTask | None = None
        self.inbox: deque[tuple[int, Parts]] = deque()
        self.letters: deque[tuple[int, Parts]] = deque()
        """Messages for services in the running task, with their senders."""
        self._routes: dict[int, tuple[int, int, int]] = {}
        self.prepared = PreparedSends(most=MOST_PREPARED)
        """The running task's prepared sends."""
        self._answers: dict[int, tuple[bool, Parts] | None] = {}
        """By ticket, answers to questions; None until the answer arrives."""
        # Not from 1: an answer to a question of this slot's previous process may still arrive.
        self._tickets = count(int.from_bytes(os.urandom(7), "little"))
        self.ledger = Ledger()
        """The results that are held back."""
        self.can_leave = False

    @property
    def task(self) -> CurrentTask:
        """The running task as its code sees it."""
        if self._task is None:
            self._task = CurrentTask(self, self.running, "")
        return self._task

    def send_to_supervisor(self, message: object) -> None:
        """Send a message to the supervisor of the running call."""
        self.connection.send([encode(SupervisorMessage(self.number, self.running)), *dump(message)])

    def note(self, message: object) -> None:
        """Leave a note, which the supervisor of the running call reads from time to time.

        It replaces the previous note; a note that is too long is sent as a message.
        """
        if not self.ledger.note(pickle.dumps((self.running, message))):
            self.send_to_supervisor(message)

    def ask(self, question: object) -> Any:
        """The controller's answer to a question; blocks. Raises the error that it answers with."""
        with if_task_has_any():
            payload = dump(question)
        ok, parts = self._answer(next(self._tickets), payload)
        answer = load(parts)
        if not ok:
            raise answer
        return answer

    def _answer(self, ticket: int, question: Parts) -> tuple[bool, Parts]:
        """Ask, and wait for the answer. If the wait is interrupted, the answer is dropped."""
        self._answers[ticket] = None
        try:
            self.connection.send([encode(Ask(self.number, self.running, ticket)), *question])
            answer = self.connection.until(lambda: self._answers[ticket], None)
            assert answer is not None  # noqa: S101 - there is no time limit
            return answer
        finally:
            del self._answers[ticket]

    def send(self, sender: int, to: int, message: object) -> None:
        """Send a message from the running task to another."""
        where = _WITH_CONTROLLER if to == SPAWNER else self._routes.get(to) or self._route(to)
        envelope, head = addressed(to, sender, *where)
        with if_task_has_any():  # an exception of a handler must not look like one of the message
            parts = [head, *dump_as("the message", message)]
        if envelope.agent != self.agent or not self.connection.send_to(envelope.slot, parts):
            self.connection.send(parts, envelope)
        shortcut = self.connection.shortcut
        if shortcut is not None and envelope.agent != self.agent:
            self.prepared.sent(envelope, shortcut.prepare)

    def post(self, sender: int, to: int, port: int, parts: Parts) -> None:
        """Send parts to a port of another task, or of the controller's program."""
        where = _WITH_CONTROLLER if to == SPAWNER else self._routes.get(to) or self._route(to)
        envelope, head = addressed(to, sender, *where, port)
        whole = [head, *parts]
        if envelope.agent != self.agent or not self.connection.send_to(envelope.slot, whole):
            self.connection.send(whole, envelope)

    def _route(self, to: int) -> tuple[int, int, int]:
        self.connection.send([encode(Locate(self.number, to))])
        route = self.connection.until(lambda: self._routes.get(to), None)
        assert route is not None  # noqa: S101 - there is no time limit
        return route

    def receive(self, task: int, timeout: float | None, source: int | None) -> Received | None:
        """The next message for the running task; see `CurrentTask.receive`."""
        found = self._from_inbox(task, source)
        if found is None:
            found = self.connection.until(lambda: self._from_inbox(task, source), timeout)
        return None if found is None else Received(found[0], load(found[1]))

    def _from_inbox(self, task: int, source: int | None) -> tuple[int, Parts] | None:
        inbox = self.inbox
        if not inbox and self.running == task:
            return None
        with self.lock:  # other threads of the task may receive, too
            self.check_runs(task)
            for at, (sender, _) in enumerate(inbox):
                if source in (None, sender):
                    found = inbox[at]
                    del inbox[at]
                    return found
        return None

    def check_runs(self, task: int) -> None:
        """Raise if a thread of an earlier task tries to send or receive for this one."""
        if self.running == FORKED:
            raise RuntimeError("a process that a task has forked can neither send nor receive")
        if self.running != task:
            raise RuntimeError(f"task {task} has ended; its threads can no longer send or receive")


_slots: WeakSet[TaskSlot] = WeakSet()


def _forked() -> None:
    """In a process that a call has forked: it is not a slot; the messages are for its parent."""
    for slot in list(_slots):
        slot.running = slot.thread = FORKED
        slot.lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
RUNNING_CALL: ContextVar[tuple[TaskSlot, int] | None] = ContextVar("encamp_slot", default=None)
"""The slot of this context, and the number of its task."""


class CurrentTask:
    """The task in which this code runs; see `current_task`.

    id, parent
        Its number, and the number of the task that spawned it (0: the program).
    name
        Its name in messages and errors.
    host, slot
        The name of its host, and its slot's number there.
    folder
        Its private folder; None if it has none.
    in_program
        Whether it runs in the program's own process.
    """

    parent = SPAWNER

    def __init__(self, slot: TaskSlot, task: int, name: str) -> None:
        self._slot, self._prepared, self._shortcut = slot, slot.prepared, slot.connection.shortcut
        self.id = task
        self.name = name or f"task {task}"
        self.host, self.slot, self.in_program = slot.host, slot.number, slot.in_program
        self.folder: Path | None = None

    def send(self, to: int | Any, message: object) -> None:
        """Send an object to a task (its id, or an object with an ``id``), or to the program (0).

        Objects to one receiver arrive in the order in which they were sent. May block until the
        receiver's process takes it. A message to a task that has ended is dropped.
        """
        number = to if type(to) is int else task_number(to)
        send = self._prepared.get(number)
        if send is not None and not self._shortcut.waiting and _thread() == self._slot.thread:  # type: ignore[union-attr]
            data = dump_small(message)
            if data is not None and send(data):
                return
        self._slot.check_runs(self.id)
        self._slot.send(self.id, task_number(number), message)

    def receive(
        self, timeout: float | None = None, source: int | Any | None = None
    ) -> Received | None:
        """The next message that was sent to this task, or None on timeout.

        ``timeout`` in seconds; None waits forever, 0 does not wait. With ``source``, returns only
        messages of that task; the others stay for later calls, in order.
        """
        if source is not None:
            source = task_number(source)
        if timeout is not None:
            timeout = patience(timeout)
        slot, shortcut = self._slot, self._shortcut
        if shortcut is not None and not slot.inbox and (timeout is None or timeout > BRIEF):
            caught = shortcut.catch(self.id, source) if _thread() == slot.thread else None
            if caught is not None:
                sender, data = caught
                return Received(sender, load_small(data))
        slot.check_runs(self.id)
        return slot.receive(self.id, timeout, source)


def task_number(task: Any) -> int:
    """The id of a task, or of an object with an ``id``; raises TypeError."""
    number = as_whole(task)
    if number is None:
        number = as_whole(getattr(task, "id", None))
    if number is None or not 0 <= number < _MOST_TASKS:
        raise TypeError(f"give a task or its id, not {task!r}")
    return number


def in_a_call() -> bool:
    """Whether this thread runs a call."""
    return RUNNING_CALL.get() is not None


def slot_here() -> tuple[TaskSlot, int] | None:
    """The slot of a cluster whose call this thread runs, and the call's task."""
    here = RUNNING_CALL.get()
    return here if here is not None and here[0].host else None  # a job's slot has no host's name


def step_here() -> tuple[TaskSlot, int] | None:
    """The slot in which this thread runs a step of a job, and the number of the call."""
    here = RUNNING_CALL.get()
    return here if here is not None and not here[0].host else None


def current_task() -> CurrentTask:
    """The task in which this code runs. Raises RuntimeError outside a task.

    Other threads of a task are outside: the task must pass them the result of this function.
    """
    here = slot_here()
    if here is None:
        if in_a_call():
            raise RuntimeError(
                "a step of a job cannot send messages; a task of `Cluster.spawn` can"
            )
        raise RuntimeError("this code does not run in a task of a cluster, nor in its first thread")
    slot, task = here
    slot.check_runs(task)  # a thread with a copy of the task's context may have outlived it
    return slot.task


def ask_here() -> Callable[[object], Any] | None:
    """A function that asks the controller of the cluster whose task this thread runs, or None."""
    here = RUNNING_CALL.get()
    return None if here is None else here[0].ask
