"""The shortcut for small messages, from a task's `send` straight to another's `receive`.

A turn of the pump, an envelope, a queue and deferring Ctrl-C each take as long as MPI takes for a
message. With an engine that has `ShortMessages`, the sender therefore prepares a send for each
receiver, and the receiver takes the message directly from the engine's inbox. Ctrl-C does no harm
at any point. All other messages stay in the inbox for a turn of the pump.
"""

from __future__ import annotations

from collections.abc import Sized
from itertools import islice, repeat
from time import monotonic
from typing import Protocol

from encamp.engines.engine_interface import Endpoint, PreparedSend, ShortMessages
from encamp.loop.event_loop import PASSED, TURN_WITHIN
from encamp.loop.pump import Pump
from encamp.wire.frames import MARK, Buffer
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import LABEL, Message, label

_LOOKS = 40
"""Number of looks into the inbox at a time: one takes less time than the code around it."""
_TRIES = 32
_TO, _SENDER = 1, 2
"""Positions in `LABEL`, in units of eight bytes."""


class Shortcut(Protocol):
    """The program's shortcut to its tasks. For any thread."""

    def prepare(self, message: Message) -> PreparedSend | None:
        """A function that sends payloads to the receiver of ``message``; None if there is none now.

        This takes as long as sending a message in the usual way.
        """

    def send(self, prepared: PreparedSend, payload: bytes) -> bool:
        """Send by a prepared send; False if a thread drives the pump or other messages wait."""

    def receive(self, to: int, source: int | None) -> tuple[int, Buffer] | None:
        """Sender and pickle of the next message if it is for task ``to``, and from ``source``.

        None if it is not, if none arrives soon, or if a thread drives the pump.
        """


class TaskShortcut(Protocol):
    """A shortcut from a task to others; for the thread that runs it."""

    @property
    def waiting(self) -> object:
        """True while other messages have to be sent first."""

    def prepare(self, message: Message) -> PreparedSend | None:
        """See `Shortcut.prepare`."""

    def catch(self, to: int, source: int | None) -> tuple[int, Buffer] | None:
        """See `Shortcut.receive`."""


class EngineShortcut:
    """The shortcut of an engine that has `ShortMessages`, for the program or an agent.

    `catch` and prepared sends are for the thread that drives the pump, the rest for any thread.
    ``queue`` has messages that arrived before, which have to be received first.
    """

    def __init__(
        self,
        pump: Pump,
        end: Endpoint,
        messages: ShortMessages,
        outbox: Outbox,
        queue: Sized = (),
    ) -> None:
        self._pump, self._end, self._messages, self._queue = pump, end, messages, queue
        self.waiting = outbox.waiting
        """Messages that have to be sent first; while there are any, the shortcut is not used."""
        self._tries = map(pump.lock.acquire, repeat(False))
        """For a `for` loop: no signal handler runs between taking the lock and the loop's body."""
        self._release = pump.lock.release
        self._looks, self._inbox, self._start = messages.looks, messages.inbox, messages.start
        self._from = messages.start + LABEL.size
        self._label = memoryview(messages.inbox)[self._start : self._from].cast("q")
        self._size, self._taken = messages.size, messages.taken
        self._open = True

    def close(self) -> None:
        """Receive no more messages by the shortcut."""
        self._open = False

    def prepare(self, message: Message) -> PreparedSend:
        """See `Shortcut.prepare`."""
        return self._messages.prepare(max(0, message.agent), label(message))

    def send(self, prepared: PreparedSend, payload: bytes) -> bool:
        """See `Shortcut.send`."""
        for alone in self._tries:
            if not alone:
                break
            try:
                return not (self._pump.calls_due or self.waiting) and prepared(payload)
            finally:
                self._release()
                if self._pump.waiters:
                    self._pump.wake_waiters()
        return False

    def receive(self, to: int, source: int | None) -> tuple[int, Buffer] | None:
        """See `Shortcut.receive`. Also returns None if the queue has messages."""
        for alone in self._tries:
            if not alone:
                break
            try:
                return None if self._queue else self.catch(to, source)
            finally:
                self._release()
                if self._pump.waiters:
                    self._pump.wake_waiters()
        return None

    def catch(self, to: int, source: int | None) -> tuple[int, Buffer] | None:
        """Sender and pickle of the next message if it is for task ``to``, and from ``source``.

        None if it is not, or if none arrives soon. Calls no handlers.
        """
        pump, messages = self._pump, self._messages
        pump.passed += 1
        if pump.calls_due or pump.pending or pump.nudged or pump.passed > PASSED or not self._open:
            return None
        caught = None
        try:
            if not messages.usable or not (any(islice(self._looks, _LOOKS)) or self._look_on()):
                return None
            self._end.busy = True
            label = self._label
            if self._inbox[self._start] != MARK or label[_TO] != to:
                return None
            sender = label[_SENDER]
            if source is not None and source != sender:
                return None
            caught = sender, self._inbox[self._from : self._start + self._size[0]]
            self._taken()
        except messages.error:
            messages.failed()
        return caught

    def _look_on(self) -> bool:
        """Look for a message a few more times, while the engine expects one at once."""
        if monotonic() - self._pump.turned_at < TURN_WITHIN:
            for _ in range(_TRIES):
                if self._end.patience() != 0:
                    return False
                if any(islice(self._looks, _LOOKS)):
                    return True
        return False
