"""A slot that is its agent's own main thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from encamp.agent.slot_interface import AgentSlot, OwningAgent
from encamp.engines.engine_interface import CONTROLLER
from encamp.loop.deferred_signals import if_task_has_any
from encamp.loop.signal_safe_lock import NonReentrantLock
from encamp.slot.isolation.restore_process import ProcessRestored
from encamp.slot.slot import INLINE_THREADS, Slot
from encamp.wire.frames import Parts, changeable, own
from encamp.wire.protocol import GivenBack, Message, Recall, encode

T = TypeVar("T")

_LOOK = 0.02
"""Seconds between two checks whether messages have arrived."""


class InlineSlot(AgentSlot):
    """The agent's own main thread as a slot: fastest for messages, but a crash ends both."""

    def __init__(self, agent: OwningAgent, number: int, folder: str) -> None:
        super().__init__(agent, number)
        self.shortcut = agent.shortcut
        self._thread = threading.get_ident()
        self._alone = NonReentrantLock()
        """Held while frames are sent or received."""
        self._slot = Slot(number, agent.host, self, agent.number, agent.cluster)
        self._folder: str | None = folder

    def give(self, envelope: Any, parts: Parts) -> None:
        """See `AgentSlot.give`."""
        self._slot.take(envelope, parts)

    def work(self) -> None:
        """See `AgentSlot.work`."""
        if self._folder is not None:  # only now: the pump's own changes must stay
            with suppress(OSError):
                os.chdir(self._folder)
            self._slot.isolation = ProcessRestored(self._folder)
            self._folder = None
        looked = time.monotonic()
        while self._slot.run_next():
            self.agent.end_turn()
            if time.monotonic() - looked > _LOOK:  # idle slots may ask for the calls waiting here
                self.agent.pump.turn(0)
                looked = time.monotonic()
            if self.agent.over:
                return

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """See `Connection.send`. Sends at once."""
        self._check_thread()
        agent = self.agent
        to = CONTROLLER if message is None else max(CONTROLLER, message.agent)
        with if_task_has_any(agent.pump.signals_deferred), self._alone:
            if to == agent.number:
                agent.pass_on(message, own(parts))  # for this process itself: arrays are copied
            else:
                agent.outbox.send(to, parts)
            agent.outbox.flush()
            while changeable(parts) and agent.endpoint.sending:
                agent.pump.turn(None)  # wait until arrays are sent that the call may change

    def send_to(self, slot: int, parts: Parts) -> bool:
        """See `Connection.send_to`."""
        return False

    def wake_waiters(self) -> None:
        """See `Connection.wake_waiters`. Only one thread may wait, so there is none to wake."""

    def until(self, found: Callable[[], T | None], timeout: float | None) -> T | None:
        """See `Connection.until`."""
        self._check_thread()
        deadline = None if timeout is None else time.monotonic() + timeout
        signals = self.agent.pump.signals_deferred
        with if_task_has_any(signals):
            while (got := found()) is None:
                signals.check()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._wait(0)
                    return found()
                self._wait(left)
            return got

    def _wait(self, timeout: float | None) -> None:
        with self._alone:
            if not self.agent.over and not self.agent.pump.spun():
                self.agent.pump.turn(timeout)
        if self.agent.over:
            raise SystemExit  # the cluster was closed, or the controller has ended

    def _check_thread(self) -> None:
        """Raise RuntimeError in another thread; locks would take longer than MPI's messages."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(INLINE_THREADS)

    def recall(self, order: Recall) -> None:
        """See `AgentSlot.recall`."""
        tasks, running = self._slot.give_back()
        given = GivenBack(self.number, order.ticket, tasks, running)
        self.agent.pass_on(given, [encode(given)])

    def end(self, within: float) -> None:
        """Drop the waiting calls. None can be running: they run in the calling thread."""
        self._slot.drop()
