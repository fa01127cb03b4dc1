"""The short way of small messages, from a task's `send` to another's `receive`, past everything.

A turn of the pump, an envelope, a queue and holding Ctrl-C off each take as long as an MPI takes
for a message. Where an engine has `ShortMessages`, one that was sent by a line is taken from the
engine's own memory by who waits for it, and an interrupt does no harm anywhere. All else stays
where it is, for a turn.
"""

from __future__ import annotations

from itertools import repeat
from pickle import loads
from time import monotonic

from encamp.agent.outbox import Outbox
from encamp.agent.protocol import LABEL, Message, Received, label
from encamp.agent.pump import PASSED, TURN_WITHIN, Pump
from encamp.engines.base import Endpoint, Line, ShortMessages

_TRIES = 32
_TO, _SENDER = 1, 2
"""Places in `LABEL`, by eight bytes."""
_new = tuple.__new__


class ShortWay:
    """One end's. `catch` and lines are for the thread that drives its pump, the rest for any."""

    def __init__(self, pump: Pump, end: Endpoint, messages: ShortMessages, outbox: Outbox) -> None:
        self._pump, self._messages = pump, messages
        self.waiting = outbox.waiting
        """Nothing may go by a line while there is something in here, which was to go before."""
        self._tries = map(pump.lock.acquire, repeat(False))
        """Each step of this is one of Python's, so that no interrupt comes within."""
        self._release = pump.lock.release
        self._patience, self._look, self._taken = end.patience, messages.look, messages.taken
        start = messages.start
        inbox = memoryview(messages.inbox)
        self._label = inbox[start : start + LABEL.size].cast("q")
        self._payload = inbox[start + LABEL.size :]
        self.open = True
        """Whether messages may still go this way."""

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
                if pump.orders or self.waiting:
                    break
                line(payload)
                return True
            finally:
                self._release()
                if pump.waiters:
                    pump.tell_waiters()
        return False

    def receive(self, to: int, source: int | None) -> Received | None:
        """`catch`; None if somebody drives."""
        for alone in self._tries:
            if not alone:
                break
            try:
                return self.catch(to, source)
            finally:
                self._release()
                if self._pump.waiters:
                    self._pump.tell_waiters()
        return None

    def catch(self, to: int, source: int | None) -> Received | None:
        """The next message, if it is for task ``to``, and from ``source`` where that matters.

        None if it is not, or if none comes soon. It runs no handlers.
        """
        pump = self._pump
        pump.passed += 1
        if pump.orders or pump.come or pump.nudged or pump.passed > PASSED or not self.open:
            return None
        there = self._look()
        if there is None:
            there = self._look_on()
        if not there:
            return None
        label = self._label
        sender = label[_SENDER]
        if label[_TO] != to or (source is not None and source != sender):
            return None
        try:
            return _new(Received, (sender, loads(self._payload)))  # noqa: S301 - of a task
        finally:
            self._taken()

    def _look_on(self) -> bool | None:
        """Look for a message as long as the engine says that this is worth while."""
        there, tries = None, _TRIES
        if monotonic() - self._pump.turned_at < TURN_WITHIN:
            while there is None and tries and self._patience() == 0:
                there = self._look()
                tries -= 1
        return there
