"""The short way of small messages, from a task's `send` to another's `receive`, past everything.

A turn of the pump, an envelope, a queue and holding Ctrl-C off each take as long as an MPI takes
for a message. Where an engine has `ShortMessages`, one that was sent by a line is taken from the
engine's own inbox by who waits for it, and an interrupt does no harm anywhere. All else stays
where it is, for a turn.
"""

from __future__ import annotations

from collections.abc import Sized
from itertools import repeat
from time import monotonic

from encamp.agent.outbox import Outbox
from encamp.agent.protocol import LABEL, Message, label
from encamp.agent.pump import PASSED, TURN_WITHIN, Pump
from encamp.engines.base import Endpoint, Line, ShortMessages
from encamp.wire import Buffer

_TRIES = 32
_TO, _SENDER = 1, 2
"""Places in `LABEL`, by eight bytes."""


def _nothing() -> int:
    return 0


class ShortWay:
    """One end's. `catch` and lines are for the thread that drives its pump, the rest for any.

    ``queue`` has what came before: nothing goes past that.
    """

    def __init__(
        self,
        pump: Pump,
        end: Endpoint,
        messages: ShortMessages,
        outbox: Outbox,
        queue: Sized = (),
    ) -> None:
        self._pump, self._messages, self._queue = pump, messages, queue
        self.waiting = outbox.waiting
        """Nothing may go by a line while there is something in here, which was to go before."""
        self._tries = map(pump.lock.acquire, repeat(False))
        """Each step of this is one of Python's, so that no interrupt comes within."""
        self._release = pump.lock.release
        self._patience, self._look, self._taken = end.patience, messages.look, messages.taken
        self._inbox, self._start = messages.inbox, messages.start
        self._from = messages.start + LABEL.size
        self._label = memoryview(messages.inbox)[self._start : self._from].cast("q")

    def close(self) -> None:
        """Nothing more is received this way."""
        self._look = _nothing

    def line(self, message: Message) -> Line:
        """What sends payloads as ``message``. Costs as much as to send one the usual way."""
        return self._messages.line(max(0, message.agent), label(message))

    def send(self, line: Line, payload: bytes) -> bool:
        """Send by a line; false if somebody drives, or something else is to go before."""
        pump = self._pump
        for alone in self._tries:
            if not alone:
                break
            try:
                return not (pump.orders or self.waiting) and line(payload)
            finally:
                self._release()
                if pump.waiters:
                    pump.tell_waiters()
        return False

    def receive(self, to: int, source: int | None) -> tuple[int, Buffer] | None:
        """`catch`; None also if somebody drives, or something is in the queue."""
        for alone in self._tries:
            if not alone:
                break
            try:
                return None if self._queue else self.catch(to, source)
            finally:
                self._release()
                if self._pump.waiters:
                    self._pump.tell_waiters()
        return None

    def catch(self, to: int, source: int | None) -> tuple[int, Buffer] | None:
        """Sender and pickle of the next message, if it is for task ``to``, and from ``source``.

        None if it is not, or if none comes soon. It runs no handlers, and nobody else's code.
        """
        pump = self._pump
        pump.passed += 1
        if pump.orders or pump.come or pump.nudged or pump.passed > PASSED:
            return None
        size = self._look()
        if size is None:
            size = self._look_on()
        if not size:
            return None
        label = self._label
        sender = label[_SENDER]
        if label[_TO] != to or (source is not None and source != sender):
            return None
        payload = self._inbox[self._from : self._start + size]
        try:
            self._taken()
        except self._messages.error:
            self._messages.failed()
        return sender, payload

    def _look_on(self) -> int | None:
        """Look for a message as long as the engine says that this is worth while."""
        size, tries = None, _TRIES
        if monotonic() - self._pump.turned_at < TURN_WITHIN:
            while size is None and tries and self._patience() == 0:
                size = self._look()
                tries -= 1
        return size
