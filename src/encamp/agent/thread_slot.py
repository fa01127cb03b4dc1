"""A slot that is a thread of its agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from encamp.agent.slot_interface import AgentSlot, OwningAgent
from encamp.slot.isolation.restore_process import FolderRestored, own_folder
from encamp.slot.slot import Slot
from encamp.wire.frames import Parts, own
from encamp.wire.protocol import GivenBack, Message, Recall, decode, encode

T = TypeVar("T")


class ThreadSlot(AgentSlot):
    """A slot that is a thread of its agent, which is hardly protected from what the thread does.

    ``label`` is its number in the thread's name. Each thread has its own current folder, if Linux
    allows it.
    """

    shortcut = None

    def __init__(
        self, agent: OwningAgent, number: int, folder: str, label: int | None = None
    ) -> None:
        super().__init__(agent, number)
        self._slot = Slot(number, agent.host, self, agent.number, agent.cluster)
        self._slot.in_program = agent.in_program
        self._folder = folder
        self._changed = threading.Condition()
        self._over = False
        name = f"slot-{number if label is None else label}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        if own_folder():
            self._slot.isolation = FolderRestored(self._folder)
        while not self._over:
            if not self._slot.run_next():
                with self._changed:
                    self._changed.wait_for(lambda: self._over or self._slot.calls)

    def give(self, envelope: Any, parts: Parts) -> None:
        """See `AgentSlot.give`."""
        self._slot.take(envelope, parts)
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """See `Connection.send`. The agent sends later, so arrays are copied: they may change."""
        parts = own(parts)
        self.agent.pump.call_soon(lambda: self.agent.pass_on(decode(parts[0]), parts))

    def send_to(self, slot: int, parts: Parts) -> bool:
        """See `Connection.send_to`."""
        return False

    def wake_waiters(self) -> None:
        """See `Connection.wake_waiters`."""
        self._notify()

    def until(self, found: Callable[[], T | None], timeout: float | None) -> T | None:
        """See `Connection.until`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while (got := found()) is None:
                if self._over:
                    raise SystemExit  # the cluster was closed before or during the wait
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
        return got

    def recall(self, order: Recall) -> None:
        """See `AgentSlot.recall`."""
        tasks, running = self._slot.give_back()
        given = GivenBack(self.number, order.ticket, tasks, running)
        self.agent.pass_on(given, [encode(given)])

    def begin_end(self) -> None:
        """See `AgentSlot.begin_end`."""
        self._over = True
        self._slot.drop()
        self._notify()

    def end(self, within: float) -> None:
        """Wait ``within`` seconds for the end of the running call; a thread cannot be killed."""
        if self._thread is not threading.current_thread():
            self._thread.join(within)
