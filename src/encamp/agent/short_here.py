"""The shortcut between the program and slots of its own process: directly over their sockets.

Messages take the same sockets in the same order as in a turn of the pump, but skip the rest of the
turn. Everything except a single message waits for a turn.
"""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from encamp.agent.hosted import ProcessSlot
from encamp.engines.base import Endpoint, Line
from encamp.loop.pump import PASSED, TURN_WITHIN, Pump
from encamp.wire.frames import Parts
from encamp.wire.pickling import load
from encamp.wire.protocol import Message, encode

if TYPE_CHECKING:
    from encamp.agent.main import Agent


class ShortWayHere:
    """A `Short` for the slots of an agent beside the controller, whose end is ``end``.

    ``queue`` has earlier messages, which come first. It polls for messages only while there are
    ``lines`` to tasks, since other tasks send results, which need a turn.
    """

    @staticmethod
    def load(data: Parts, /) -> Any:
        """See `Short.load`."""
        return load(data)

    def __init__(self, pump: Pump, end: Endpoint, agent: Agent, queue: Sized, lines: Sized) -> None:
        self._pump, self._end, self._agent = pump, end, agent
        self._queue, self._lines = queue, lines

    def line(self, message: Message) -> Line:
        """See `Short.line`."""
        head, slot = encode(message), self._agent.slots[message.slot]

        def send(payload: bytes) -> bool:
            return isinstance(slot, ProcessSlot) and slot.send_now([head, payload])

        return send

    def send(self, line: Line, payload: bytes) -> bool:
        """See `Short.send`."""
        pump = self._pump
        with pump.held_off:
            if not pump.lock.acquire(blocking=False):
                return False
            try:
                return self._nothing_waits() and line(payload)
            finally:
                self._release()

    def receive(self, to: int, source: int | None) -> tuple[int, Parts] | None:
        """See `Short.receive`."""
        if not self._lines:
            return None
        pump = self._pump
        with pump.held_off:
            if not pump.lock.acquire(blocking=False):
                return None
            try:
                return self._come(source) if self._may_pass() else None
            finally:
                self._release()

    def _release(self) -> None:
        self._pump.lock.release()
        if self._pump.waiters:
            self._pump.tell_waiters()

    def _nothing_waits(self) -> bool:
        pump = self._pump
        return not (pump.orders or pump.come or self._agent.endpoint.patience() == 0)

    def _may_pass(self) -> bool:
        """Whether a message may bypass the turn of the pump; not for long."""
        pump = self._pump
        pump.passed += 1
        if self._queue or pump.nudged or pump.passed > PASSED or not pump.eager:
            return False
        late = time.monotonic() - pump.turned_at > TURN_WITHIN
        return not late and self._nothing_waits() and self._end.patience() != 0

    def _come(self, source: int | None) -> tuple[int, Parts] | None:
        fd = self._pump.look_on()
        if fd is None:
            return None
        for slot in self._agent.slots:
            if isinstance(slot, ProcessSlot) and slot.data_fd == fd:
                return slot.read_now(source)
        return None
