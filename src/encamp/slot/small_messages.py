"""The shortcut for small messages, from a task's `send` straight to another's `receive`.

A turn of the pump, an envelope, a queue and deferring Ctrl-C each take as long as MPI takes for a
message. With an engine that has `ShortMessages`, the sender therefore prepares a send for each
receiver, and the receiver takes the message directly from the engine's inbox. Ctrl-C does no harm
at any point. All other messages stay in the inbox for a turn of the pump.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sized
from itertools import islice, repeat
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from encamp.engines.engine_interface import Endpoint, PreparedSend, ShortMessages
from encamp.loop.event_loop import PASSED, TURN_WITHIN
from encamp.loop.pump import Pump
from encamp.wire.frames import MARK, Buffer
from encamp.wire.pickling import dump_small, load_small
from encamp.wire.protocol import LABEL, SPAWNER, Message, Received, label

if TYPE_CHECKING:
    from encamp.wire.outbox import Outbox  # would load OpenSSL in each slot

_LOOKS = 40
"""How many times the inbox is polled at a time: one poll takes less time than the code around
it."""
_TRIES = 32
_TO, _SENDER = 1, 2
"""Positions in `LABEL`, in units of eight bytes."""
BRIEF = 0.001
"""Maximum number of seconds to look for a small message."""
Caught = tuple[int, Buffer]
"""A task, and the pickle of a message that it sends or receives."""


class PreparedSends(dict[int, PreparedSend | None]):
    """A sender's prepared sends, by receiver; None after one message.

    Preparing takes as long as sending a message, so it is for receivers that get several. If there
    are more than ``most``, they are prepared anew.
    """

    def __init__(
        self, prepared: Mapping[int, PreparedSend | None] = {}, *, most: float = inf
    ) -> None:
        super().__init__(prepared)
        self._most = most

    def sent(self, message: Message, prepare: Callable[[Message], PreparedSend | None]) -> None:
        """Record a message that was sent in the usual way.

        From the second message to a receiver on, ``prepare`` is called for the next ones.
        """
        to = message.to
        if not self.get(to):
            if len(self) > self._most:
                self.clear()
            self[to] = prepare(message) if to in self else None


class TaskShortcut(Protocol):
    """A shortcut from a task to others; for the thread that runs it."""

    @property
    def waiting(self) -> object:
        """True while other messages have to be sent first."""

    def prepare(self, message: Message) -> PreparedSend | None:
        """A function that sends payloads to the receiver of ``message``; None if there is none now.

        This takes as long as sending a message in the usual way.
        """

    def catch(self, to: int, source: int | None) -> Caught | None:
        """Sender and pickle of the next message if it is for task ``to``, and from ``source``.

        None if it is not, or if none arrives soon.
        """


class Shortcut(ABC):
    """The program's shortcut to its tasks, for any thread.

    It is used only while no thread drives the pump: this thread takes its lock. ``queue`` has
    messages that arrived before, which have to be received first; ``waiting`` has those that have
    to be sent first.
    """

    def __init__(self, pump: Pump, queue: Sized, waiting: Sized, prepared: PreparedSends) -> None:
        self._pump, self._queue, self._prepared = pump, queue, prepared
        self.waiting = waiting
        self._tries = map(pump.lock.acquire, repeat(False))
        """For a `for` loop: no signal handler runs between taking the lock and the loop's body."""
        self._release = pump.lock.release
        """Not a method: a signal's handler may run, and raise, before the first step of one."""

    @abstractmethod
    def prepare(self, message: Message) -> PreparedSend | None:
        """See `TaskShortcut.prepare`."""

    @abstractmethod
    def catch(self, to: int, source: int | None) -> Caught | None:
        """See `TaskShortcut.catch`."""

    def send(self, to: int, message: object) -> bool:
        """Send an object to a task; False if it has to be sent in the usual way."""
        prepared = self._prepared.get(to)
        payload = None if prepared is None else dump_small(message)
        if prepared is None or payload is None:
            return False
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

    def receive(self, source: int | None, timeout: float | None) -> Received | None:
        """The program's next message if it is from ``source`` (None: from any task).

        None if it is not, if none arrives soon, if other messages have to be received first, or if
        a thread drives the pump. Never waits longer than ``timeout`` seconds.
        """
        if timeout is not None and timeout <= BRIEF:
            return None
        for alone in self._tries:
            if not alone:
                break
            try:
                caught = None if self._queue else self.catch(SPAWNER, source)
            finally:
                self._release()
                if self._pump.waiters:
                    self._pump.wake_waiters()
            return None if caught is None else Received(caught[0], load_small(caught[1]))
        return None


class EngineShortcut(Shortcut):
    """The shortcut of an engine that has `ShortMessages`, for the program or an agent.

    An agent uses only `prepare` and `catch`, in the thread that drives the pump.
    """

    def __init__(
        self,
        pump: Pump,
        endpoint: Endpoint,
        messages: ShortMessages,
        outbox: Outbox,
        queue: Sized = (),
        prepared: PreparedSends | None = None,
    ) -> None:
        prepared = PreparedSends() if prepared is None else prepared
        super().__init__(pump, queue, outbox.waiting, prepared)
        self._endpoint, self._messages = endpoint, messages
        self._looks, self._inbox, self._start = messages.looks, messages.inbox, messages.start
        self._from = messages.start + LABEL.size
        self._label = memoryview(messages.inbox)[self._start : self._from].cast("q")
        self._size, self._taken = messages.size, messages.taken
        self._open = True

    def close(self) -> None:
        """Receive no more messages through the shortcut."""
        self._open = False

    def prepare(self, message: Message) -> PreparedSend:
        """See `TaskShortcut.prepare`."""
        return self._messages.prepare(max(0, message.agent), label(message))

    def catch(self, to: int, source: int | None) -> Caught | None:
        """See `TaskShortcut.catch`. Calls no handlers."""
        pump, messages = self._pump, self._messages
        pump.passed += 1
        if pump.calls_due or pump.pending or pump.nudged or pump.passed > PASSED or not self._open:
            return None
        caught = None
        try:
            if not messages.usable or not (any(islice(self._looks, _LOOKS)) or self._look_on()):
                return None
            self._endpoint.busy = True
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
                if self._endpoint.patience() != 0:
                    return False
                if any(islice(self._looks, _LOOKS)):
                    return True
        return False
