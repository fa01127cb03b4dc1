"""The sockets of a slot's process: to its supervisor, and to other slots of its host."""

from __future__ import annotations

import errno
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from encamp.engines.kit.waker import Waker
from encamp.loop import deferred_signals
from encamp.loop.polling import Poller
from encamp.loop.signal_safe_lock import NonReentrantLock
from encamp.slot.shared_memory import SlotShortcut
from encamp.slot.slot import Slot
from encamp.wire.frames import Parts, Reader, Writer
from encamp.wire.protocol import (
    GivenBack,
    Link,
    Message,
    Recall,
    Run,
    decode,
    encode,
)
from encamp.wire.wait_for_descriptor import readable, writable

T = TypeVar("T")
_CUT_OFF = (
    "the task has opened so many files that none was left for messages of another task; "
    "close some, or raise the limit (ulimit -n)"
)
_LOOK_AGAIN = 0.05
"""Seconds that a thread waits for another one to poll, before it tries itself."""
_FOLLOW = 0.1
"""Seconds between two readings of a task's output, and until an idle slot sleeps for good."""


class _Link(NamedTuple):
    """A socket to another slot of the host."""

    socket: socket.socket
    reader: Reader
    writer: Writer
    writing: NonReentrantLock


class SlotSockets:
    """The slot's sockets: to its supervisor, and to other slots of its host (a `Connection`).

    Any thread of a task may send and wait. Of those that wait, one polls and reads for all.
    """

    slot: Slot

    def __init__(self, data_fd: int, control_fd: int) -> None:
        data = socket.socket(fileno=data_fd)
        data.setblocking(False)
        self._control = socket.socket(fileno=control_fd)
        self._control.setblocking(False)
        self._wake = Waker()
        self.reading = threading.Lock()
        self._reader = Reader(data, descriptors=True)
        self.writer = Writer(data)
        self._writing, self.polling = NonReentrantLock(), NonReentrantLock()
        self._changed = threading.Condition()
        self._others = 0
        """How many threads wait for the one that polls."""
        self._reads = 0
        """How often something was read."""
        self._links: dict[int, _Link] = {}
        self._numbers: dict[int, int] = {}
        self._data = data.fileno()
        self._runs = self.read = 0
        """How many messages of the agent were read: those with calls, and all."""
        self.shortcut: SlotShortcut | None = None
        self._poller = Poller()
        self._cut_off: int | None = None
        """A task that may have missed messages, because there was no free descriptor for a link."""
        self._poll = select.poll()
        self._poll.register(self._data, select.POLLIN)
        self._poll.register(self._wake.fileno(), select.POLLIN)
        # By this descriptor a signal that arrives just before a poll ends it at once.
        self._signals, wake_end = socket.socketpair()
        for end in (self._signals, wake_end):
            end.setblocking(False)
        self._poll.register(self._signals.fileno(), select.POLLIN)
        signal.set_wakeup_fd(wake_end.detach(), warn_on_full_buffer=False)
        self.control_writer = Writer(self._control)
        self.follow: Callable[[], None] | None = None
        self.look: Callable[[], None] | None = None
        self._watcher = Waker()
        self._dozes = False
        """Whether the watching thread sleeps until something is read."""
        self._seen = -1
        """``_reads`` when the watching thread last looked."""

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """Send to the agent; blocks until the socket has taken all."""
        with deferred_signals.if_task_has_any(), self._writing:
            self.writer.send(parts)
            if self.writer.waiting:
                self._push(self._data, self.writer)

    def send_to(self, slot: int, parts: Parts) -> bool:
        """Send to another slot of this host over a link; False if there is none."""
        link = self._links.get(slot)
        if link is None:
            return False
        try:
            with deferred_signals.if_task_has_any(), link.writing:
                link.writer.send(parts)
                if link.writer.waiting:
                    self._push(link.socket.fileno(), link.writer)
        except OSError:
            self._drop(slot)  # its process has ended, or had no descriptor for the link
            return False
        return True

    def _push(self, fd: int, writer: Writer) -> None:
        """Write the rest. Reads in the meantime: the other side may also be blocked in writing."""
        try:
            while writer.waiting:
                deferred_signals.of_task.check()
                if self.polling.acquire(wait=False):
                    try:
                        self._poll_to_write(fd)
                    finally:
                        self.leave()
                else:  # another thread polls and reads
                    writable(fd, _LOOK_AGAIN)
                writer.flush()
        except BaseException:
            writer.own()  # the task continues and may change the buffers that are not written yet
            raise

    def _poll_to_write(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN | select.POLLOUT)
        try:
            self._read(self._poll.poll())
        finally:
            with suppress(KeyError, ValueError, OSError):
                self._poll.modify(fd, select.POLLIN)

    def until(self, found: Callable[[], T | None], timeout: float | None) -> T | None:
        """See `Connection.until`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        over = False
        while True:
            reads = self._reads
            if (got := found()) is not None or over:
                return got
            if self._cut_off == self.slot.running:
                raise OSError(errno.EMFILE, _CUT_OFF)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.wait(left, reads)
            over = left == 0

    def wait(self, timeout: float | None, reads: int = -1) -> bool:
        """Wait until something arrives, or for ``timeout`` seconds; False if nothing has arrived.

        ``reads`` is an earlier ``_reads``: if something was read since, it does not wait.
        """
        with deferred_signals.if_task_has_any():
            return self._wait(timeout, reads)

    def _wait(self, timeout: float | None, reads: int) -> bool:
        if not self.polling.acquire(wait=False):
            return self._wait_for_another(timeout)
        try:
            if reads not in (-1, self._reads):
                return True
            shortcut = self.shortcut
            at_once = shortcut is not None and shortcut.used and shortcut.rest()
            if at_once or (timeout is not None and timeout <= 0):
                events = self._poll.poll(0)
            else:
                limit = None if timeout is None else timeout * 1000
                poll = self._poll.poll
                events = self._poller.wait(lambda: poll(0), lambda: poll(limit))
            self._read(events)
        finally:
            self.leave()
        return at_once or bool(events)

    def has_data(self) -> bool:
        """See `shared_memory.Sockets.has_data`."""
        return bool(self._poll.poll(0))

    def _wait_for_another(self, timeout: float | None) -> bool:
        """Wait a moment for the thread that polls to read something, or to stop polling."""
        with self._changed:
            self._others += 1
            changed = self._changed.wait(
                _LOOK_AGAIN if timeout is None else min(timeout, _LOOK_AGAIN)
            )
            self._others -= 1
        if not changed and threading.current_thread() is threading.main_thread():
            self._wake.wake()  # the thread that polls may belong to a task that has ended
        return True

    def leave(self) -> None:
        """Stop polling."""
        self.polling.release()
        if self._others:
            self._wake_others()

    def wake_waiters(self) -> None:
        """See `Connection.wake_waiters`."""
        if self._others:
            self._wake_others()
        self._wake.wake()

    def _wake_others(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _read(self, events: list[tuple[int, int]]) -> None:
        for fd, event in events:
            if not event & ~select.POLLOUT:
                continue
            if fd == self._data:
                self._read_data()
            elif fd == self._wake.fileno():
                self._wake.rest()
            elif fd == self._signals.fileno():
                self._signals.recv(4096)
            elif fd in self._numbers:  # False if the link was replaced just now
                self._read_link(self._numbers[fd])
        self._reads += 1
        if self._dozes:
            self._watcher.wake()
        if self._others:
            self._wake_others()

    def _read_data(self) -> None:
        with self.reading:
            shortcut = self.shortcut
            for parts in self._reader.read():
                if shortcut is not None and shortcut.used:
                    shortcut.deliver()
                self.read += 1
                envelope = decode(parts[0])
                if isinstance(envelope, Link):
                    self._take_link(envelope.slot)
                else:
                    self.slot.take(envelope, parts)
                    self._runs += isinstance(envelope, Run)
            if shortcut is not None and shortcut.used:
                shortcut.deliver()

    def _take_link(self, slot: int) -> None:
        while slot in self._links and readable(self._links[slot].socket, 0):
            self._read_link(slot)  # first the messages of the slot's previous process
        self._drop(slot)
        if not self._reader.received:  # this process has no free descriptor
            self._cut_off = self.slot.running
            return
        link = socket.socket(fileno=self._reader.received.popleft())
        link.setblocking(False)
        self._links[slot] = _Link(link, Reader(link), Writer(link), NonReentrantLock())
        self._numbers[link.fileno()] = slot
        self._poll.register(link.fileno(), select.POLLIN)

    def _read_link(self, slot: int) -> None:
        try:
            for parts in self._links[slot].reader.read():
                self.slot.take(decode(parts[0]), parts)
        except (EOFError, OSError):
            self._drop(slot)

    def _drop(self, slot: int) -> None:
        link = self._links.pop(slot, None)
        if link is not None:
            self._poll.unregister(link.socket.fileno())
            del self._numbers[link.socket.fileno()]
            link.socket.close()

    def watch(self) -> None:
        """Serve the control socket until it is closed."""
        reader = Reader(self._control)
        poll, fd = select.poll(), self._control.fileno()
        poll.register(self._watcher.fileno(), select.POLLIN)
        with suppress(EOFError, OSError):
            while True:
                poll.register(
                    fd, select.POLLIN | (select.POLLOUT if self.control_writer.waiting else 0)
                )
                found = poll.poll(self._until_look())
                self._dozes = False
                if not found:
                    self._look_at_output()
                elif any(ready == self._watcher.fileno() for ready, _ in found):
                    self._watcher.rest()
                self.control_writer.flush()
                for parts in reader.read():
                    self._recall(decode(parts[0]))

    def _until_look(self) -> float | None:
        """Milliseconds until the next look at a task's output; None while no task can run."""
        if self.look is None:
            return None
        with self.slot.lock:
            idle = self.slot.running < 0 and not self.slot.calls
        self._dozes = idle  # before the comparison: a thread that reads looks at this afterwards
        if idle and self._seen == self._reads:
            return None
        self._dozes, self._seen = False, self._reads
        return _FOLLOW * 1000

    def _look_at_output(self) -> None:
        if self.follow is not None:
            self.follow()
        if self.look is not None and self.slot.running >= 0:
            self.look()

    def _recall(self, order: Recall) -> None:
        # The main thread may be busy with a call, so data are read here.
        self._read_data()
        while self._runs < order.runs:  # calls that were sent before must be given back, too
            readable(self._data, _FOLLOW)
            self._read_data()
        self._wake.wake()
        tasks, running = self.slot.give_back()
        self.control_writer.send(
            [encode(GivenBack(self.slot.number, order.ticket, tasks, running))]
        )
