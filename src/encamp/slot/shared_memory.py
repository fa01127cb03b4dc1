"""The shortcut for small messages between a program and slots on its host: shared memory.

The system calls of a socket take longer than everything else that a small message needs, and waking
a process takes ten times longer still. Therefore the memory that a slot shares with its agent
(`ledger`) has a cell for each direction. A sender fills the cell if the receiver polls it; other
messages go over the socket.

    8 bytes      whether the receiver polls
    8 bytes      how many messages were put into the cell
    8 bytes      how many of these were taken
    8 bytes      the task that sends or receives the message
    8 bytes      its length
    8 bytes      how many messages had gone over the socket before it
    `ROOM`       its pickle

The sixth number keeps the messages of a sender in order: the receiver takes the message from the
cell once it has read that many from the socket, and before it reads more.

A receiver polls from its first wait until just before it sleeps. Then it clears the first number
and checks the cell once more. A sender that fills the cell and then finds the number cleared sends
`CheckMemory` over the socket. This relies on each side seeing the other's writes in order, and on
no read being moved before a locked instruction that precedes it, so it is for x86 only.
"""

from __future__ import annotations

import mmap
import platform
import threading
from collections import deque
from collections.abc import Callable, Sized
from functools import partial
from time import monotonic
from typing import Any, Protocol

from encamp.engines.engine_interface import PreparedSend
from encamp.loop.deferred_signals import if_task_has_any
from encamp.loop.event_loop import PASSED, TURN_WITHIN
from encamp.loop.polling import Poller
from encamp.loop.pump import Pump
from encamp.loop.signal_safe_lock import NonReentrantLock
from encamp.slot import ledger
from encamp.slot.small_messages import Caught, PreparedSends, Shortcut
from encamp.wire.frames import Parts, Writer
from encamp.wire.protocol import SPAWNER, CheckMemory, Message, encode

ROOM = ledger.CELL - 64
USABLE = platform.machine() in ("x86_64", "AMD64")
_LOOKS, _PUT, _TAKEN, _TASK, _SIZE, _BEHIND = range(6)
_HEAD = 64
_POLL_EVERY = 8
"""Polls of the cell for each poll of the sockets, which takes much longer."""
_LOOK = encode(CheckMemory())


class Cell:
    """Holds one message at a time. One thread fills it, another empties it."""

    def __init__(self, memory: memoryview, at: int) -> None:
        self.words = memory[at : at + _HEAD].cast("Q")
        self._room = memory[at + _HEAD : at + _HEAD + ROOM]
        self._lock = threading.Lock()

    def prepare(self, task: int, writer: Writer, send: Callable[[Parts], object]) -> PreparedSend:
        """Return a function that puts a task's message into the cell, and returns whether it could.

        ``send`` sends over the socket; ``writer`` counts what went there.
        """
        words, room, lock = self.words, self._room, self._lock

        def put(payload: bytes) -> bool:
            size = len(payload)
            if not words[_LOOKS] or words[_PUT] != words[_TAKEN] or size > ROOM:
                return False
            room[:size] = payload
            words[_TASK], words[_SIZE], words[_BEHIND] = task, size, writer.count
            words[_PUT] += 1
            with lock:  # a memory barrier: the message is visible before the flag is read
                looks = words[_LOOKS]
            if not looks:
                send([_LOOK])
            return True

        return put

    def end(self) -> None:
        """Stop polling. The caller must take what the cell still holds."""
        self.words[_LOOKS] = 0
        with self._lock:  # a memory barrier: the flag is visible before the cell is checked
            pass

    def take(self, read: int) -> Caught | None:
        """Take the message, unless more than ``read`` messages went over the socket before it."""
        words = self.words
        put = words[_PUT]
        if put == words[_TAKEN] or words[_BEHIND] > read:
            return None
        found = words[_TASK], bytes(self._room[: words[_SIZE]])
        words[_TAKEN] = put
        return found


class Cells:
    """Both cells of a slot's memory."""

    def __init__(self, memory: memoryview) -> None:
        self.to_slot = Cell(memory, ledger.CELLS)
        self.to_program = Cell(memory, ledger.CELLS + ledger.CELL)

    @staticmethod
    def of(fd: int) -> Cells:
        """Map the cells of a slot, for its agent."""
        return Cells(memoryview(mmap.mmap(fd, ledger.ALL)))


# The slot's side


class Receiver(Protocol):
    """The part of a slot that its sockets need."""

    inbox: deque[tuple[int, Parts]]

    def take(self, envelope: Any, parts: Parts) -> None:
        """Handle a message that has arrived."""


class Sockets(Protocol):
    """A slot's sockets. A thread that waits for them holds ``polling``, a reader ``reading``."""

    polling: NonReentrantLock
    reading: threading.Lock
    writer: Writer
    read: int
    """How many messages from the agent were read and handled."""

    @property
    def slot(self) -> Receiver:
        """The slot that the sockets belong to."""

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """Send to the agent."""

    def has_data(self) -> bool:
        """Whether a socket has data to read; for the thread that polls."""

    def leave(self) -> None:
        """Stop polling."""


class SlotShortcut:
    """A slot's shortcut to the program; for the thread that runs its calls, except `deliver`."""

    waiting = False
    """Never true: a message in a cell has the number of messages that precede it."""

    def __init__(self, sockets: Sockets, memory: memoryview) -> None:
        cells = Cells(memory)
        self._sockets, self._in, self._out = sockets, cells.to_slot, cells.to_program
        self._poller = Poller()
        self._looks = self._passed = 0
        self.used = False
        """Whether a task has ever received through it. Until then there is nothing in the cell."""

    def prepare(self, message: Message) -> PreparedSend | None:
        """A function that sends payloads to the receiver of ``message``, if that is the program."""
        if message.to:
            return None
        return self._out.prepare(message.sender, self._sockets.writer, self._sockets.send)

    def catch(self, to: int, source: int | None) -> Caught | None:
        """Sender and pickle of the next message if it is for task ``to``, and from ``source``.

        None if it is not, or if none arrives soon; also from time to time in any case, so that the
        sockets are read, too.
        """
        with if_task_has_any():  # a handler that raises would leave the lock taken
            return self._catch(to, source)

    def _catch(self, to: int, source: int | None) -> Caught | None:
        sockets, cell = self._sockets, self._in
        self._passed += 1
        if source or self._passed > PASSED or not sockets.polling.acquire(wait=False):
            self._passed = 0
            return None
        try:
            self.used = True
            cell.words[_LOOKS] = 1
            self._poller.look(self._has_message)
            with sockets.reading:
                found = None if sockets.slot.inbox else cell.take(sockets.read)
        finally:
            sockets.leave()
        if found is not None and found[0] != to:
            self._give(found)
            return None
        return found and (SPAWNER, found[1])

    def _has_message(self) -> bool:
        words = self._in.words
        self._looks += 1
        if words[_PUT] != words[_TAKEN]:
            return True
        return not self._looks % _POLL_EVERY and self._sockets.has_data()

    def rest(self) -> bool:
        """Stop polling before this process sleeps; returns whether the cell had a message."""
        self._in.end()
        with self._sockets.reading:
            return self.deliver()

    def deliver(self) -> bool:
        """Give the slot the cell's message if it is the next; returns whether it was.

        For the thread that reads the sockets.
        """
        found = self._in.take(self._sockets.read)
        if found is not None:
            self._give(found)
        return found is not None

    def _give(self, found: Caught) -> None:
        self._sockets.slot.take(Message(found[0], SPAWNER), [b"", found[1]])


# The program's side


class Process(Protocol):
    """A slot's process."""

    writer: Writer
    read: int
    """How many messages from it were read and passed on."""

    @property
    def cells(self) -> Cells:
        """The cells in its memory."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""


class LocalSlot(Protocol):
    """A slot of the agent in the program's process."""

    def reachable_process(self) -> Process | None:
        """The slot's process, or None if messages to it have to wait."""

    def send_to_process(self, process: Process, parts: Parts) -> None:
        """Send a message over the socket, unless the process was replaced."""


class ProgramShortcut(Shortcut):
    """The program's shortcut to the slots of an agent in its process.

    ``hosted`` returns the slot of a number. ``pass_on`` is called with messages that are not for
    the caller of `receive`. It polls only while there are ``prepared`` sends: other tasks send only
    results, which take a turn of the pump anyway.
    """

    def __init__(
        self,
        pump: Pump,
        queue: Sized,
        prepared: PreparedSends,
        hosted: Callable[[int], Any],
        pass_on: Callable[[Message, Parts], object],
    ) -> None:
        super().__init__(pump, queue, pump.pending, prepared)
        self._hosted, self._pass_on = hosted, pass_on
        self._cells: dict[Cell, Process] = {}
        """The cells to poll: those of slots that the program has prepared sends for."""
        self._poller = Poller()
        self._looks = 0

    def prepare(self, message: Message) -> PreparedSend | None:
        """See `TaskShortcut.prepare`."""
        slot: LocalSlot = self._hosted(message.slot)
        process = slot.reachable_process()
        if process is None:
            return None
        if not self._cells:
            self._pump.resting.append(self._rest)
        self._cells = {cell: one for cell, one in self._cells.items() if one.alive}
        self._cells[process.cells.to_program] = process
        cell, send = process.cells.to_slot, partial(slot.send_to_process, process)
        return cell.prepare(message.to, process.writer, send)

    def _may_pass(self) -> bool:
        """Whether a message may be received outside a turn of the pump."""
        pump = self._pump
        pump.passed += 1
        if pump.calls_due or pump.pending or pump.nudged or pump.passed > PASSED:
            return False
        return pump.eager and monotonic() - pump.turned_at < TURN_WITHIN

    def catch(self, to: int, source: int | None) -> Caught | None:
        """See `TaskShortcut.catch`; ``to`` is the program."""
        cells = self._cells
        if not (self._prepared and cells and self._may_pass()):
            return None
        for cell in cells:
            cell.words[_LOOKS] = 1
        self._poller.look(self._has_message)
        for cell, process in cells.items():
            found = cell.take(process.read)
            if found is not None and source in (None, found[0]):
                return found
            if found is not None:
                self._pass_on(Message(SPAWNER, found[0]), [b"", found[1]])
        return None

    def _has_message(self) -> bool:
        for cell in self._cells:
            words = cell.words
            if words[_PUT] != words[_TAKEN]:
                return True
        self._looks += 1
        return not self._looks % _POLL_EVERY and self._pump.descriptors_ready()

    def _rest(self) -> None:
        """Stop polling before the pump sleeps, and pass on messages from the cells."""
        for cell, process in self._cells.items():
            cell.end()
            found = cell.take(process.read)
            if found is not None:
                self._pass_on(Message(SPAWNER, found[0]), [b"", found[1]])
