"""Slots for a worker of any executor: processes that run a function, and can be watched and killed.

A slot offers what a thread or a shared worker process cannot: its own current folder, its own
output, an enforced time limit, and a crash that affects nothing else. Any process can be the
supervisor, even in a thread of a Dask worker or in an ipyparallel engine.
"""

from __future__ import annotations

import itertools
import operator
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from encamp.agent.child_process import REFUSED, ChildProcess, may_pass
from encamp.agent.failed_starts import Starts
from encamp.errors import SlotsCannotStart
from encamp.slot.isolation.process_tree import supervised
from encamp.slot.main import SlotSettings
from encamp.slot.program_settings import SettingsSource
from encamp.slot.slot import Setup
from encamp.slot.this_process import at_end
from encamp.wire.frames import Parts
from encamp.wire.pickling import (
    NotBegun,
    disclosed,
    dump,
    enclosed,
    load,
    load_failure,
    portable_error,
)
from encamp.wire.protocol import (
    Answer,
    Ask,
    Results,
    Run,
    SupervisorMessage,
    decode,
    encode,
    encode_calls,
)
from encamp.wire.wait_for_descriptor import readable, writable

IDLE_LIMIT = 60.0
"""Seconds after which an unused slot ends itself."""
_MODULES = ["encamp.jobs.worker.run_phases"]


@dataclass(frozen=True)
class Done:
    value: Any


@dataclass(frozen=True)
class Raised:
    """The error of the function, and its traceback as text."""

    error: BaseException
    text: str


class SlotLost(Exception):
    """The slot's process ended during a call; ``exit_code`` as `subprocess` gives it."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _NotTaken(Exception):
    """The slot ended before it took the call."""


class Supervisor(Protocol):
    """Supervises one call. What it raises stops the slot, except for `answer`."""

    def on_tick(self) -> None:
        """Check whether the call may continue; called from time to time."""

    def on_message(self, message: Any) -> None:
        """Handle a message of the function."""

    def on_note(self, note: Any) -> None:
        """Read the latest note, before `on_tick` and when the slot is stopped or lost."""

    def answer(self, question: Any) -> Any:
        """Answer a question of the function; an exception is raised there."""


class SupervisedSlot:
    """One slot; for one thread at a time.

    It keeps the modules that it has imported, so it is for one ``batch`` of work, whose code does
    not change. With ``own_mounts`` it may mount overlays even if its user may not.
    """

    def __init__(self, *, batch: str = "", own_mounts: bool = False) -> None:
        self.batch = batch
        self.own_mounts = own_mounts
        settings = SlotSettings(own_mounts=own_mounts, idle_limit=IDLE_LIMIT, modules=_MODULES)
        self._process = ChildProcess(settings)
        supervised.add(self.pid)
        self._arrived: list[Parts] = []
        self._calls = 0
        self._noted = b""
        self._settings_source = SettingsSource()
        self._settings = b""

    @property
    def pid(self) -> int:
        """Process id of the slot."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the slot can take a call."""
        return self._process.alive

    @property
    def is_new(self) -> bool:
        """Whether it has run at most one call."""
        return self._calls <= 1

    @property
    def start_failure(self) -> str | None:
        """See `ChildProcess.start_failure`."""
        return self._process.start_failure

    def ask_to_stop(self) -> None:
        """`ChildProcess.ask_to_stop`."""
        self._process.ask_to_stop()

    def stop(self) -> None:
        """`ChildProcess.stop`."""
        self._process.stop()
        supervised.discard(self.pid)

    def run(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        supervisor: Supervisor,
        *,
        tick: float,
        sys_path: tuple[str, ...] = (),
    ) -> Done | Raised:
        """Run ``function(*args)`` in the slot and wait for it.

        ``supervisor`` is called at least every ``tick`` seconds. KeyboardInterrupt stops the slot.
        Raises `SlotLost` if the slot's process dies.
        """
        setup = pickle.dumps(Setup(sys_path=sys_path))
        work, large = enclosed([pickle.dumps(((function, *args), {}))])
        self._calls += 1
        calls = encode_calls([(self._calls, 0, work, len(large), setup)])
        try:
            settings = self._settings_source.now()
            new = b"" if settings is self._settings else settings
            self._settings = settings
            self._send([encode(Run(0, 1, [0], settings=new)), calls, _CALL, *large])
            return self._wait(tick, supervisor)
        except BaseException:
            try:
                self._look(supervisor)
            finally:
                self.stop()
            raise

    def _send(self, parts: Parts) -> None:
        writer = self._process.writer
        try:
            writer.send(parts)
            while writer.waiting:
                writable(self._process.data, None)
                writer.flush()
        except OSError:
            raise _NotTaken from None

    def _wait(self, tick: float, supervisor: Supervisor) -> Done | Raised:
        next_tick = time.monotonic() + tick
        while True:
            for parts in self._arrivals(max(0.0, next_tick - time.monotonic()), supervisor):
                envelope = decode(parts[0])
                if isinstance(envelope, Results):
                    if not envelope.results[0][1]:
                        self._look(supervisor)
                    return _answer(envelope, parts)
                if isinstance(envelope, SupervisorMessage):
                    supervisor.on_message(load(parts[1:]))
                elif isinstance(envelope, Ask):
                    self._answer(envelope, supervisor, load(parts[1:]))
            if time.monotonic() >= next_tick:
                if not self.alive and not self._arrivals(0, supervisor):
                    raise self._lost(supervisor)  # a child process still has its end of the socket
                self._look(supervisor)
                supervisor.on_tick()
                next_tick = time.monotonic() + tick

    def _answer(self, asked: Ask, supervisor: Supervisor, question: object) -> None:
        try:
            answer, good = supervisor.answer(question), True
        except Exception as exc:  # noqa: BLE001 - it is raised where it was asked
            answer, good = portable_error(exc), False
        with suppress(_NotTaken):  # its end is noticed next
            self._send([encode(Answer(0, asked.ticket, good)), *dump(answer)])

    def _look(self, supervisor: Supervisor) -> None:
        """Read the running call's latest note."""
        noted = self._process.noted()
        if noted and noted != self._noted:
            self._noted = noted
            call, message = pickle.loads(noted)  # noqa: S301 - from our own process
            if call == self._calls:
                supervisor.on_note(message)

    def _arrivals(self, timeout: float, supervisor: Supervisor) -> list[Parts]:
        """The next message from the slot within the time; those already received are first."""
        if not self._arrived and readable(self._process.data, timeout):
            try:
                self._arrived = self._process.reader.read()
            except (EOFError, OSError):
                raise self._lost(supervisor) from None
        arrived, self._arrived = self._arrived, []
        return arrived

    def _lost(self, supervisor: Supervisor) -> Exception:
        taken = self._process.begun(self._calls)
        self._look(supervisor)
        exit_code = self._process.ended()
        return SlotLost(exit_code) if taken else _NotTaken()


_CALL = pickle.dumps(operator.call)  # a function of this module would load it in slots


def _answer(envelope: Results, parts: Parts) -> Done | Raised:
    _, good, _, payload, _ = envelope.results[0]
    if good:
        return Done(load(disclosed(payload, parts[1:])))
    error, text = load_failure(disclosed(payload, parts[1:]))
    if type(error) is NotBegun:
        raise _NotTaken
    return Raised(error, text)


class Slots:
    """The slots of this process: started when needed, reused, as many as run at once."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, SupervisedSlot]] = []  # with the thread that last used it
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, *, batch: str = "", own_mounts: bool = False) -> Iterator[SupervisedSlot]:
        """A slot for this thread alone; it is returned afterwards unless it died.

        Idle slots of another batch are stopped, since their modules may be out of date.
        """
        self._stop_others(batch)
        slot = self._take(batch, own_mounts)
        try:
            yield slot
        finally:
            if slot.alive:
                with self._lock:
                    self._idle.append((threading.get_ident(), slot))
            else:
                slot.stop()

    def _stop_others(self, batch: str) -> None:
        with self._lock:
            others = [slot for _, slot in self._idle if slot.batch != batch]
            self._idle = [idle for idle in self._idle if idle[1].batch == batch]
        _stop_all(others)

    def _take(self, batch: str, own_mounts: bool) -> SupervisedSlot:
        with self._lock:
            # The thread's own last slot is first, so that a thread and a slot stay together.
            self._idle.sort(key=lambda idle: idle[0] == threading.get_ident())
            for number in reversed(range(len(self._idle))):
                if self._idle[number][1].own_mounts == own_mounts:
                    _, slot = self._idle.pop(number)
                    if slot.alive:
                        return slot
                    slot.stop()
        return self._started(batch, own_mounts)

    def _started(self, batch: str, own_mounts: bool) -> SupervisedSlot:
        """A new slot, retried if the system refuses it for a moment."""
        for tries in itertools.count(1):
            try:
                return SupervisedSlot(batch=batch, own_mounts=own_mounts)
            except OSError as exc:
                if tries > len(REFUSED) or not may_pass(exc):
                    raise SlotsCannotStart(socket.gethostname(), tries, str(exc)) from exc
                time.sleep(REFUSED[tries - 1])
        raise AssertionError

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        supervisor: Supervisor,
        tick: float,
        sys_path: tuple[str, ...] = (),
        batch: str = "",
        own_mounts: bool = False,
    ) -> Done | Raised:
        """`SupervisedSlot.run` in any slot; again in a different one if that was just ending.

        Raises `SlotsCannotStart` if none starts.
        """
        starts = Starts()
        while True:
            with self.borrow(batch=batch, own_mounts=own_mounts) as slot:
                try:
                    return slot.run(function, args, supervisor, tick=tick, sys_path=sys_path)
                except _NotTaken:
                    starts.note(slot.start_failure, begun=not slot.is_new, waited=True)
                    starts.check()
                    if starts.by_call:
                        raise SlotLost(None) from None

    def close(self) -> None:
        """Stop the idle slots. Idempotent."""
        with self._lock:
            idle, self._idle = self._idle, []
        _stop_all([slot for _, slot in idle])


def _stop_all(slots: list[SupervisedSlot]) -> None:
    """Stop slots, in about the time that one takes."""
    for slot in slots:
        slot.ask_to_stop()
    for slot in slots:
        slot.stop()


_here: Slots | None = None
_pid = 0


def slots_here() -> Slots:
    """The slots of this process; a forked child has none of its parent's."""
    global _here, _pid
    if _here is None or _pid != os.getpid():
        _here, _pid = Slots(), os.getpid()
        at_end(_here.close)  # otherwise they are killed, and leave their folders
    return _here
