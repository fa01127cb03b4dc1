"""The program of a slot's process, which runs calls for its supervisor until that has ended.

    supervisor                                       slot (this file)
        ── data: Run, Message, Location, Answer ───────►   main thread
        ◄─ data: SupervisorMessage, Results, Message, …
        ── control: Recall ─────────────────────────────►  watching thread
        ◄─ control: GivenBack, OutputText ──────────────

When the supervisor dies, the sockets are closed, and the slot ends with all processes that it has
started. A slot's standard output and error are a file that its supervisor can also read.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from encamp.engines.kit.interpreter import default_signals
from encamp.engines.kit.waker import Waker
from encamp.errors import Stopped
from encamp.loop import deferred_signals
from encamp.loop.nonreentrant import NonReentrantLock
from encamp.loop.polling import Poller
from encamp.slot.bounded_files import ends_of, free_middle
from encamp.slot.isolation import put_back
from encamp.slot.ledger import Ledger
from encamp.slot.open_files import limit_files
from encamp.slot.processes import (
    adopt_orphans,
    descendants,
    end_descendants,
    helpers,
    supervised_slots,
)
from encamp.slot.shared_memory import USABLE, SlotShortcut
from encamp.slot.slot import Slot
from encamp.storage.import_path import extend_import_path
from encamp.storage.inputs.overlay import enter_namespace
from encamp.wire.frames import Parts, Reader, Writer
from encamp.wire.protocol import (
    Exiting,
    GivenBack,
    Link,
    Message,
    OutputText,
    Recall,
    Run,
    decode,
    encode,
)

if TYPE_CHECKING:
    from psutil import Process

T = TypeVar("T")
OUTPUT_HINT = "Cluster(output_limit=...) keeps more"
_CUT_OFF = (
    "the task has opened so many files that none was left for messages of another task; "
    "close some, or raise the limit (ulimit -n)"
)
_LEAVE_WITHIN = 2.0
"""Seconds for the end of the process (threads, `atexit`), after which it is ended."""
_LOOK_AGAIN = 0.05
"""Seconds that a thread waits for another one to poll, before it tries itself."""
_FOLLOW = 0.1
"""Seconds between two readings of a task's output."""
_LOOK = 1.0
"""Seconds between two checks whether a task runs, while none does."""


class SlotSettings(msgspec.Struct, array_like=True):
    """The settings of a slot's process at its start."""

    data: int = -1
    control: int = -1
    ledger: int = -1
    streams: list[int] = []
    """Descriptors for its standard output and error, if not those that it is started with."""
    files: int = 0
    """Its limit of open files; its supervisor may have raised its own."""
    number: int = 0
    host: str = ""
    agent: int = 0
    folder: str = "/"
    sys_path: list[str] = []
    own_mounts: bool = False
    idle_limit: float | None = None
    """Seconds without calls after which the slot ends itself; None: it does not."""
    capture: bool = False
    follow: bool = False
    output: int = 1 << 20
    """Bytes of a task's output that are kept: half from the beginning, half from the end."""
    cores: list[int] = []
    """The numbers of its cores; empty: those of its supervisor."""
    threads: dict[str, str] = {}
    """Those of `threads.VARIABLES` that the program has set; those set on the host win."""
    init_command: str = ""
    """The command that its supervisor runs before, see `environment_after`."""
    niceness: int = 0
    """This is added to its supervisor's niceness."""
    interpreter: str = ""
    """Its Python interpreter; empty: its supervisor's."""
    cluster: str = ""
    """See `Orders`."""


class _State:
    """The slot that this process is, if it is one."""

    slot: Slot | None = None
    stopping = False
    orphaned = False
    spoilt = False
    left_alone = False
    """See `leave_process_alone`."""
    last_words: Callable[[], None] | None = None


def tell(message: object) -> None:
    """Send a message to the supervisor from the running function; does nothing outside a slot."""
    if _State.slot is not None:
        _State.slot.tell(message)


def note(message: object) -> None:
    """Leave a note for the supervisor, which can also read it after this process has died.

    Cheaper than `tell`, but a note replaces the one before. Does nothing outside a slot.
    """
    if _State.slot is not None:
        _State.slot.note(message)


def ask(question: object) -> Any:
    """The supervisor's answer to a question of the running function; blocks.

    Raises the error that the supervisor answers with, and RuntimeError outside a slot.
    """
    if _State.slot is None:
        raise RuntimeError("this process is no slot")
    return _State.slot.ask(question)


def at_supervisors_end(last_words: Callable[[], None] | None) -> None:
    """Set the function to be called if the supervisor dies during a call (None: none)."""
    _State.last_words = last_words


def spoil() -> None:
    """Replace this slot's process after the call, as some change to it cannot be undone."""
    _State.spoilt = True


def leave_process_alone() -> None:
    """Undo nothing but a change of the current folder after the running call.

    The caller promises that nothing else is changed. Child processes are ended as after any call.
    """
    _State.left_alone = True


@contextmanager
def undone() -> Iterator[None]:
    """A context at whose end changes to this process are undone."""
    try:
        yield
    finally:
        slot = _State.slot
        if slot is not None and isinstance(slot.isolation, put_back) and not slot.isolation.undo():
            spoil()


def orphaned() -> bool:
    """Whether this is a slot whose supervisor has ended, so that nobody needs its results."""
    return _State.orphaned


def main(encoded: bytes) -> None:
    """Run the supervisor's calls until it has closed the sockets."""
    settings = msgspec.msgpack.decode(encoded, type=SlotSettings)
    default_signals()  # before there is another thread
    if settings.own_mounts:
        enter_namespace()  # before there is another thread; it may fail
    if settings.cores:
        with suppress(OSError):  # the cores may have been taken from this user meanwhile
            os.sched_setaffinity(0, settings.cores)
    if settings.niceness:
        os.nice(settings.niceness)
    for fd in (settings.data, settings.control, settings.ledger):
        os.set_inheritable(fd, False)
    limit_files(settings.files)
    # Not SIG_IGN, which commands that are started here would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, _stop)
    os.register_at_fork(after_in_child=_forked)
    extend_import_path(settings.sys_path)
    with suppress(OSError):
        os.chdir(settings.folder)
    adopt_orphans()
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True, errors="surrogateescape")  # type: ignore[union-attr]
    port = _Sockets(settings)
    slot = _State.slot = port.slot = Slot(
        settings.number, settings.host, port, settings.agent, settings.cluster
    )
    folder = str(Path.cwd()) if settings.folder != "/" else "/"
    slot.isolation = _ProcessIsolation(folder)
    slot.ledger, slot.can_leave = Ledger(settings.ledger), True
    if settings.host and USABLE:
        port.shortcut = SlotShortcut(port, slot.ledger.memory)
    if settings.capture:
        slot.ended = _Printed(port, settings.output, follow=settings.follow).ended
    threading.Thread(target=port.watch, daemon=True, name="encamp-watch").start()
    atexit.register(_end_all, os.getpid())  # registered first, so it runs after libraries' own
    _print_to(settings.streams)
    gc.freeze()  # objects of loaded modules stay, so collections need not visit them
    atexit.register(gc.freeze)  # nor does the one at the end, when all memory is given back
    slot.ledger.open()
    with suppress(EOFError, OSError, Stopped):
        while not (_State.stopping or _State.spoilt or slot.leaves):
            if (
                not slot.run_next()
                and not _rest(slot, port, settings.idle_limit)
                and settings.idle_limit
            ):
                break
    _State.stopping = True  # from here on a signal interrupts nothing
    with suppress(EOFError, OSError):
        port.wait(0)  # calls that have arrived by now are handed back, too
        slot.hand_back()
        slot.send_results()
        port.send([encode(Exiting(settings.number))])
    _end_all(os.getpid())
    threading.Thread(target=_end_late, daemon=True).start()


def _rest(slot: Slot, port: _Sockets, limit: float | None) -> bool:
    """Wait until something arrives; False if nothing does within the limit in seconds."""
    slot.interruptible = True
    try:
        return _State.stopping or port.wait(limit)
    finally:
        slot.interruptible = False


def _end_all(pid: int) -> None:
    """End all child processes of the slot's process, except libraries' helpers."""
    if os.getpid() == pid:
        end_descendants(grace=0, spare=helpers())


def _end_late() -> None:
    """End this process after some seconds, even if a thread or a library prevents its exit."""
    time.sleep(_LEAVE_WITHIN)
    os._exit(1)


def _print_to(streams: list[int]) -> None:
    for fd, own in zip(streams, (1, 2), strict=False):
        os.dup2(fd, own)
        os.close(fd)


def _forked() -> None:
    """In a process that a task has forked, restore the default effects of signals."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: object) -> None:
    if not _State.stopping:  # a second signal must not interrupt the clearing up
        _State.stopping = True
        slot = _State.slot
        if slot is not None:
            slot.stopping = True
        if slot is None or slot.interruptible:
            raise Stopped


class _ProcessIsolation(put_back):
    """Restores the process after each call, and ends all processes that the call has started."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._opened = -1
        self._lasting: list[Process] = []
        """Processes of initializers, which are not ended after a call."""
        self._open()

    def _open(self) -> None:
        if self._opened >= 0:
            os.close(self._opened)
            self._opened = -1
        with suppress(OSError):
            self._opened = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)

    def keep(self, besides: Iterable[str] = ()) -> None:
        """See `leave.keep`."""
        super().keep(besides)
        self._open()
        self._lasting = descendants()

    def _go_back(self) -> None:
        try:
            os.fchdir(self._opened)  # faster than by its name
        except OSError:
            super()._go_back()

    def __exit__(self, *exc: object) -> None:
        try:
            lasting = [*self._lasting, *supervised_slots()]
            if end_descendants(grace=0, besides=lasting, spare=helpers()):
                spoil()
        finally:
            left_alone, _State.left_alone = _State.left_alone, False
            if left_alone:
                self._go_back()
            elif not self.undo():
                spoil()


class _Link(NamedTuple):
    """A socket to another slot of the host."""

    socket: socket.socket
    reader: Reader
    writer: Writer
    writing: NonReentrantLock


class _Sockets:
    """The slot's sockets: to its supervisor, and to other slots of its host (`calls.Port`).

    Any thread of a task may send and wait. Of those that wait, one polls and reads for all.
    """

    slot: Slot

    def __init__(self, settings: SlotSettings) -> None:
        data = socket.socket(fileno=settings.data)
        data.setblocking(False)
        self._control = socket.socket(fileno=settings.control)
        self._control.setblocking(False)
        self._wake = Waker()
        self.reading = threading.Lock()
        self._reader = Reader(data, descriptors=True)
        self.writer = Writer(data)
        self._writing, self.polling = NonReentrantLock(), NonReentrantLock()
        self._changed = threading.Condition()
        self._others = 0
        """How many threads wait for the one that polls."""
        self._come = 0
        """How often something was read."""
        self._links: dict[int, _Link] = {}
        self._numbers: dict[int, int] = {}
        self._data = data.fileno()
        self._runs = self.read = 0
        """How many messages of the agent were read: those with calls, and all."""
        self.shortcut: SlotShortcut | None = None
        self._poller = Poller()
        self._cut_off: int | None = None
        """A task that may have missed messages, as there was no free descriptor for a link."""
        self._poll = select.poll()
        self._poll.register(self._data, select.POLLIN)
        self._poll.register(self._wake.fileno(), select.POLLIN)
        # By this descriptor a signal that arrives just before a poll ends it at once.
        self._signals, told = socket.socketpair()
        for end in (self._signals, told):
            end.setblocking(False)
        self._poll.register(self._signals.fileno(), select.POLLIN)
        signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
        self.said = Writer(self._control)
        self.follow: Callable[[], None] | None = None
        self.look: Callable[[], None] | None = None

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """Send to the agent; blocks until the socket has taken all."""
        with deferred_signals.if_task_has_any(), self._writing:
            self.writer.send(parts)
            if self.writer.waiting:
                self._push(self._data, self.writer)

    def send_to(self, slot: int, parts: Parts) -> bool:
        """Send to another slot of this host by a link; False if there is none."""
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
        """Write the rest. Reads meanwhile, as the other side may also be blocked in writing."""
        try:
            while writer.waiting:
                deferred_signals.of_task.check()
                if self.polling.acquire(wait=False):
                    try:
                        self._poll_to_write(fd)
                    finally:
                        self.leave()
                else:  # another thread polls and reads
                    _wait_for_room(fd)
                writer.flush()
        except BaseException:
            writer.own()  # the task goes on and may change the buffers that are not written yet
            raise

    def _poll_to_write(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN | select.POLLOUT)
        try:
            self._read(self._poll.poll())
        finally:
            with suppress(KeyError, ValueError, OSError):
                self._poll.modify(fd, select.POLLIN)

    def until(self, found: Callable[[], T | None], timeout: float | None) -> T | None:
        """See `calls.Port.until`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        over = False
        while True:
            come = self._come
            if (got := found()) is not None or over:
                return got
            if self._cut_off == self.slot.running:
                raise OSError(errno.EMFILE, _CUT_OFF)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.wait(left, come)
            over = left == 0

    def wait(self, timeout: float | None, come: int = -1) -> bool:
        """Wait until something arrives or the time is over; False if nothing has arrived.

        ``come`` is an earlier ``_come``: if something was read since, it does not wait.
        """
        with deferred_signals.if_task_has_any():
            return self._wait(timeout, come)

    def _wait(self, timeout: float | None, come: int) -> bool:
        if not self.polling.acquire(wait=False):
            return self._wait_for_another(timeout)
        try:
            if come not in (-1, self._come):
                return True
            at_once = self.shortcut is not None and self.shortcut.rest()
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

    def come(self) -> bool:
        """See `shared_memory.Port.come`."""
        return bool(self._poll.poll(0))

    def _wait_for_another(self, timeout: float | None) -> bool:
        """Wait a moment for the thread that polls to read something, or to stop polling."""
        with self._changed:
            self._others += 1
            told = self._changed.wait(_LOOK_AGAIN if timeout is None else min(timeout, _LOOK_AGAIN))
            self._others -= 1
        if not told and threading.current_thread() is threading.main_thread():
            self._wake.wake()  # the thread that polls may belong to a task that has ended
        return True

    def leave(self) -> None:
        """Stop polling."""
        self.polling.release()
        if self._others:
            self._tell_others()

    def tell_waiters(self) -> None:
        """See `calls.Port.tell_waiters`."""
        if self._others:
            self._tell_others()
        self._wake.wake()

    def _tell_others(self) -> None:
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
        self._come += 1
        if self._others:
            self._tell_others()

    def _read_data(self) -> None:
        with self.reading:
            shortcut = self.shortcut
            for parts in self._reader.read():
                if shortcut is not None:
                    shortcut.take_in()
                self.read += 1
                envelope = decode(parts[0])
                if isinstance(envelope, Link):
                    self._take_link(envelope.slot)
                else:
                    self.slot.take(envelope, parts)
                    self._runs += isinstance(envelope, Run)
            if shortcut is not None:
                shortcut.take_in()

    def _take_link(self, slot: int) -> None:
        while slot in self._links and select.select([self._links[slot].socket], [], [], 0)[0]:
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
        """Serve the control socket; when it is closed, end this process and all it has started."""
        reader = Reader(self._control)
        poll, fd = select.poll(), self._control.fileno()
        with suppress(EOFError, OSError):
            while True:
                poll.register(fd, select.POLLIN | (select.POLLOUT if self.said.waiting else 0))
                pause = _LOOK if self.follow is None and self.slot.running < 0 else _FOLLOW
                if not poll.poll(pause * 1000 if self.look is not None else None):
                    self._see()
                self.said.flush()
                for parts in reader.read():
                    self._recall(decode(parts[0]))
        _end()

    def _see(self) -> None:
        if self.follow is not None:
            self.follow()
        if self.look is not None and self.slot.running >= 0:
            self.look()

    def _recall(self, order: Recall) -> None:
        # The main thread may be busy with a call, so data are read here.
        self._read_data()
        while self._runs < order.runs:  # calls that were sent before must be given back, too
            select.select([self._data], [], [], _FOLLOW)
            self._read_data()
        self._wake.wake()
        tasks, running = self.slot.give_back()
        self.said.send([encode(GivenBack(self.slot.number, order.ticket, tasks, running))])


def _wait_for_room(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(_LOOK_AGAIN * 1000)


def _end() -> None:
    """End this process, as its supervisor has ended."""
    _State.orphaned = True
    end_descendants(grace=1.0, spare=helpers())
    if _State.last_words is not None:
        with suppress(Exception):
            _State.last_words()
    os._exit(1)


class _Printed:
    """The output of tasks: the file of descriptors 1 and 2, emptied after each task."""

    def __init__(self, port: _Sockets, most: int, *, follow: bool) -> None:
        self._port, self._most = port, most
        self._lock = threading.Lock()
        self._told = 0
        self._fd = os.dup(1)
        """The file, even if a call closes or redirects its descriptors."""
        self._flush = ctypes.CDLL(None).fflush
        self._always = follow
        port.look, port.follow = self._look, self._follow if follow else None

    def ended(self, task: int) -> None:
        """Send the rest of a task's output, and empty the file."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:  # noqa: S110, BLE001 - a call may have replaced them by any object
            pass
        self._flush(None)
        for fd in (1, 2):  # a call may have redirected them
            os.dup2(self._fd, fd)
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size:
            with self._lock:
                head, text = ends_of(self._fd, self._most, OUTPUT_HINT)
                os.ftruncate(self._fd, 0)
                self._told = 0
            number, start = self._port.slot.number, size - len(text)
            self._port.send([encode(OutputText(number, task, start, text, True, head))])

    def _look(self) -> None:
        """Send new output if it is wanted, and free the disk space of output that is not kept."""
        if self._port.slot.follow and not self._always:
            self._follow()
        with self._lock:
            free_middle(self._fd, self._most // 2, self._most // 2)

    def _follow(self) -> None:
        """Send what the running task has printed since the last time."""
        slot = self._port.slot
        with self._lock:
            size, task = os.fstat(self._fd).st_size, slot.running
            if task < 0 or size <= self._told:
                return
            start = max(self._told, size - self._most)
            text = os.pread(self._fd, size - start, start)
            self._told = size
        self._port.said.send([encode(OutputText(slot.number, task, start, text, False))])
