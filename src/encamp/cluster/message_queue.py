"""The controller's queue of messages: for the program, and for tasks that have not started."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from encamp.cluster.events import TaskExit, TaskResult
from encamp.cluster.records import RUNNING, TaskRecord
from encamp.slot.small_messages import PreparedSends, Shortcut
from encamp.units import size_text
from encamp.wire.frames import Parts
from encamp.wire.outbox import Outbox
from encamp.wire.pickling import load
from encamp.wire.protocol import NOWHERE, SPAWNER, Received, addressed

MUCH = 1 << 30
"""Bytes of large results in the queue, none of which was received, before a warning."""
_FULL = (
    "the queue of a cluster keeps results of {}, because nothing receives them; spawn the tasks "
    "with notify=False, or call `Cluster.receive`"
)


class MessageQueue:
    """The queue of messages for the program, and messages to tasks that have not started."""

    def __init__(self, tasks: Mapping[int, TaskRecord], outbox: Outbox) -> None:
        self._tasks, self._outbox = tasks, outbox
        self.queue: deque[tuple[int, Any] | tuple[int, bool, Any] | int] = deque()
        """Messages and events with their senders, and ended tasks, see `put_end`."""
        self.early: dict[int, list[tuple[int, int, Parts]]] = {}
        """Messages for tasks that have not started: ports, senders and payloads."""
        self.waiters: list[Callable[[], object]] = []
        """Functions that are called, once, when a message has arrived."""
        self._arrived = False
        """Whether a message has arrived since they were called."""
        self._taking = threading.Lock()
        self._kept, self._warned = 0, False
        """Bytes of large results that were queued since the program last received something."""
        self.shortcut: Shortcut | None = None
        self.prepared = PreparedSends()
        """The program's prepared sends to running tasks."""

    # For the program

    def put(self, sender: int, what: Any) -> None:
        """Queue a message (its pickle's parts) or an event."""
        self.queue.append((sender, what))
        self._arrived = True

    def put_end(self, task: int, ok: bool, value: Any) -> None:
        """Queue the two events of a task's end.

        They are created when they are received, because most programs never receive them: objects
        that wait here take memory, and time in each garbage collection.
        """
        self.queue.append((task, ok, value))  # a `TaskResult`
        self.queue.append(task)  # a `TaskExit`
        self._arrived = True

    def keeps(self, size: int) -> None:
        """Count the bytes of a large result whose event is put on the queue; may warn, once."""
        self._kept += size
        if self._kept > MUCH and not self._warned:
            self._warned = True
            with suppress(UserWarning):  # the work must continue if warnings are errors
                warnings.warn(_FULL.format(size_text(self._kept)), stacklevel=2)

    def take(self, source: int | None) -> Received | None:
        """The next message of the queue, or of one sender; from any thread."""
        queue = self.queue
        if not queue:
            return None
        self._kept = 0  # the program receives
        with self._taking:
            for position in range(len(queue) if source is not None else min(1, len(queue))):
                found = queue[position]
                sender = found if isinstance(found, int) else found[0]
                if source is None or sender == source:
                    del queue[position]
                    break
            else:
                return None
        return _received(found)

    def clear(self) -> None:
        """Empty the queue."""
        self.queue.clear()

    def call_on_arrival(self, wake: Callable[[], object]) -> None:
        """Call a function once, when the queue has a message; from any thread."""
        self.waiters.append(wake)

    def cancel_call(self, wake: Callable[[], object]) -> None:
        """Undo `call_on_arrival`."""
        with suppress(ValueError):
            self.waiters.remove(wake)

    @property
    def awaited(self) -> bool:
        """Whether a function waits for a message that has arrived."""
        return bool(self.waiters) and self._arrived

    def call_waiters(self, *, failed: bool) -> None:
        """Call the waiting functions if a message has arrived, or if none will (``failed``)."""
        if self.waiters and (self._arrived or failed):
            self._arrived = False
            waiters, self.waiters = self.waiters, []
            for wake in waiters:
                with suppress(RuntimeError):  # its event loop is closed
                    wake()

    # For tasks

    def is_sent_at_once(self, number: int) -> bool:
        """Whether a message to a task would be sent at once."""
        task = self._tasks.get(number)
        return task is not None and task.state is RUNNING and number not in self.early

    def send(self, to: int, sender: int, payload: Parts, port: int = 0) -> None:
        """Forward a message to a task; keeps it until the task starts, drops it after its end."""
        task = self._tasks.get(to)
        if task is None:
            return
        if task.state is not RUNNING or to in self.early:
            self.early.setdefault(to, []).append((port, sender, payload))
        elif (slot := task.slot) is not None:
            envelope, head = addressed(to, sender, slot.agent, slot.number, 0, port)
            self._outbox.send(slot.agent, [head, *payload])
            if self.shortcut is not None and sender == SPAWNER and not port:
                self.prepared.sent(envelope, self.shortcut.prepare)

    def begins(self, task: TaskRecord) -> None:
        """Give a task that starts the messages that have waited for it."""
        for port, sender, payload in self.early.pop(task.id, ()):
            self.send(task.id, sender, payload, port)

    def forget(self, task: TaskRecord) -> None:
        """Handle the end of a task."""
        self.prepared.pop(task.id, None)
        self.early.pop(task.id, None)

    def slot_of(self, number: int) -> tuple[int, int, int]:
        """Agent and slot of a running task, and the number of the last calls sent there.

        Messages to other tasks go through this controller.
        """
        task = self._tasks.get(number)
        slot = task.slot if task is not None and task.state is RUNNING else None
        return (NOWHERE, NOWHERE, 0) if slot is None else (slot.agent, slot.number, slot.runs)


def _received(found: tuple[int, Any] | tuple[int, bool, Any] | int) -> Received:
    """The message or event that an entry of the queue represents."""
    if isinstance(found, int):
        return Received(found, TaskExit(found))
    if len(found) == 3:
        return Received(found[0], TaskResult(*found))
    sender, what = found
    return Received(sender, load(what) if isinstance(what, list) else what)
