"""A slot: takes calls, runs them in order, and lets each send and receive messages.

The code is the same for slots that are processes, threads of their agent, or the agent itself; they
differ in the `Connection` through which messages are sent and received.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from encamp.errors import InitializerFailed, Stopped, words_of
from encamp.slot.connection import Connection
from encamp.slot.current_task import MOST_PREPARED, RUNNING_CALL, CurrentTask, TaskSlot
from encamp.slot.isolation.restore_process import NotIsolated, ProcessRestored
from encamp.slot.numerical_threads import of_task
from encamp.slot.run_function import called
from encamp.slot.small_messages import PreparedSends
from encamp.storage.import_path import extend_import_path
from encamp.wire.frames import Buffer, Parts
from encamp.wire.pickling import (
    NotBegun,
    NotImportable,
    disclosed,
    dump,
    dump_failure,
    dump_result,
    enclosed,
    load,
)
from encamp.wire.protocol import (
    SERVICES,
    Answer,
    Call,
    Location,
    Message,
    Run,
    Started,
    decode_calls,
    encode,
    encode_results,
)

if TYPE_CHECKING:
    from encamp.slot.initializer_globals import Initialized
    from encamp.storage.folder_life import FolderPlan


_NOTHING: Parts = []
INLINE_THREADS = (
    "an inline task can send and receive only in the thread that runs it; "
    "use inline='threads', or slots that are processes"
)


class Setup(msgspec.Struct, frozen=True):
    """A call's options."""

    name: str = ""
    report_start: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    cores: int = 1
    sys_path: tuple[str, ...] = ()
    follow: bool = False
    """Whether its output is sent while it runs."""
    initializer: int = 0
    """The number of an initializer, which a slot runs once, before the first such call; 0: none."""
    folder: FolderPlan | None = None
    """The call's own folder."""


class Slot(TaskSlot):
    """Runs calls one after the other. ``number`` is its number on its host."""

    def __init__(
        self, number: int, host: str, connection: Connection, agent: int = 0, cluster: str = ""
    ) -> None:
        super().__init__(number, host, connection, agent, cluster)
        self.calls: deque[tuple[Call, Parts]] = deque()
        """The waiting calls, with the large buffers of their arguments."""
        self.isolation = NotIsolated()
        """The context of each call, which undoes its effects on the process."""
        self._context = copy_context()
        """Each call gets a copy, so that its context variables are its own."""
        self.follow = False
        """Whether to send the running call's output while it runs."""
        self.ended: Callable[[int], None] | None = None
        """Called with a task's number before its result is sent."""
        self._functions: dict[int, Buffer | Callable[..., Any]] = {}
        self._early: dict[int, list[tuple[int, int, Parts]]] = {}
        """By task, messages for calls that wait here, or that have not arrived yet."""
        self._expected: dict[int, int] = {}
        """By task with messages but no call yet, the number of the `Run` that brings the call."""
        self._latest = 0
        self.supervisor = b""
        """The `ProcessFacts` of the process that rescues files of killed calls; empty: none."""
        self.leaves = False
        """Whether its process will end now, for a new one."""
        self._reloads = 0
        """How many of the program's reloads are done here, too."""
        self._settings = b""
        """The program's settings, to be applied before the next call; empty if they are."""
        self._initialized: dict[int, Initialized] = {}
        """The globals that initializers have set, by the numbers of these."""
        self._not_run = False
        """Whether the last call could not begin here, so that it will run elsewhere."""
        self.stopping = False
        """Whether its process was asked to end."""
        self.interruptible = False
        """Whether a signal may interrupt: while a call runs, but not while its result is sent."""

    def take(self, envelope: Any, parts: Parts) -> None:
        """Handle a message for this slot."""
        if isinstance(envelope, Message):
            self._take_message(envelope, parts[1:])
        elif isinstance(envelope, Run):
            self._take_calls(envelope, parts)
        elif isinstance(envelope, Location):
            self._routes[envelope.task] = envelope.agent, envelope.its_slot, envelope.run
        elif isinstance(envelope, Answer) and envelope.ticket in self._answers:
            self._answers[envelope.ticket] = envelope.ok, parts[1:]

    def _take_calls(self, run: Run, parts: Parts) -> None:
        at = 2 + len(run.functions)
        self._functions.update(zip(run.functions, parts[2:at], strict=True))
        if run.settings:
            self._settings = run.settings
        for number in run.dropped:
            self._functions.pop(number, None)
            self._initialized.pop(number, None)
        calls = []
        for call in decode_calls(parts[1]):
            _, _, _, count, _ = call
            calls.append((call, parts[at : at + count] if count else _NOTHING))
            at += count
        with self.lock:
            self.calls.extend(calls)
            self._latest = run.number
            if self._expected:
                self._forget_gone()

    def _forget_gone(self) -> None:
        """Drop messages for calls that run elsewhere: they did not arrive with their `Run`."""
        here = set(self._waiting_tasks())
        for task, number in list(self._expected.items()):
            if number <= self._latest:
                del self._expected[task]
                if task not in here:
                    self._early.pop(task, None)

    def _take_message(self, envelope: Message, payload: Parts) -> None:
        with self.lock:
            if envelope.to == self.running:
                box = self.letters if envelope.port else self.inbox
                box.append((envelope.sender, payload))
                return
            if envelope.run > self._latest:
                self._expected[envelope.to] = envelope.run
            elif envelope.to not in self._waiting_tasks():
                return
            early = envelope.port, envelope.sender, payload
            self._early.setdefault(envelope.to, []).append(early)

    def _waiting_tasks(self) -> Iterator[int]:
        return map(_task_of, self.calls)

    def give_back(self) -> tuple[list[int], int]:
        """Give back the calls that have not started; returns their tasks, and the running task.

        A call that has messages stays, since these are in this slot. If none is running, the first
        one stays, too: the controller may have informed other tasks that it runs here.
        """
        with self.lock:
            kept = [self.calls.popleft()] if self.calls and self.running < 0 else []
            kept += [waiting for waiting in self.calls if _task_of(waiting) in self._early]
            given = [task for task in self._waiting_tasks() if task not in self._early]
            self.calls.clear()
            self.calls.extend(kept)
            return given, self.running

    def drop(self) -> None:
        """Start no more calls."""
        with self.lock:
            self.calls.clear()

    def run_next(self) -> bool:
        """Run one call if there is one."""
        waiting = self._take_next()
        if waiting is None:
            self.send_results()
            return False
        call, buffers = waiting
        task = self.running
        if self._settings and self._apply_settings():
            self.leaves = self._not_run = True
            self._ended(task, False, -1.0, _NOT_BEGUN)
            return True
        begun = time.perf_counter()
        parts, good = self._outcome(call, buffers)
        if parts is _NOT_BEGUN:
            self._not_run = True
            self._ended(task, False, -1.0, parts)
            return True
        now = time.perf_counter()
        if self.ended is not None:
            self.ended(task)
        self._ended(task, good, now - begun, parts)
        return True

    def _apply_settings(self) -> bool:
        """Apply the program's settings; returns whether that takes a new process."""
        from encamp.slot.program_settings import apply_settings  # most slots do not need it

        encoded, self._settings = self._settings, b""
        settings = apply_settings(encoded)
        new, self._reloads = settings.reloads[self._reloads :], len(settings.reloads)
        if new and self.ledger.count > 1 and self.can_leave:
            return True  # calls have run here, so the old modules may be in use
        for name in new:
            if name in sys.modules:
                importlib.reload(sys.modules[name])
        self.isolation.keep()
        return False

    def _ended(self, task: int, good: bool, took: float, parts: Parts) -> None:
        """Send a call's result, or hold it back. Messages of a call that did not begin go back."""
        now = time.perf_counter()
        self.running, self.follow = -1, False
        talked = self.inbox or self.letters or self._routes or self.prepared or self._not_run
        unread = self._forget_messages() if talked else ()
        payload, buffers = enclosed(parts)
        result = encode((task, good, took, payload, len(buffers)))
        if not self.calls or buffers or unread or not self.ledger.hold(result, now):
            self.send_results(result, buffers, now)
        for port, sender, letter in unread:  # the controller keeps them for the task
            message = Message(task, sender, port=port)
            self.connection.send([encode(message), *letter], message)

    def hand_back(self) -> None:
        """Return the waiting calls when this process ends."""
        while (waiting := self._take_next()) is not None:
            self._not_run = True
            self._ended(_task_of(waiting), False, -1.0, _NOT_BEGUN)

    def _take_next(self) -> tuple[Call, Parts] | None:
        """Make the next call the running one."""
        with self.lock:
            if not self.calls:
                return None
            waiting = self.calls.popleft()
            self.ledger.begin_call()
            (task, _, _, _, _), _ = waiting
            self.running = task
            if self.inbox or self.letters:  # they arrived for the last call when it had just ended
                self.inbox.clear()
                self.letters.clear()
            if self._early:
                for port, sender, payload in self._early.pop(task, ()):
                    (self.letters if port else self.inbox).append((sender, payload))
            return waiting

    def send_results(self, result: bytes = b"", buffers: Parts = _NOTHING, now: float = 0) -> None:
        """Send the results that are held back, and ``result`` with its ``buffers``."""
        ledger = self.ledger
        results = [*ledger.held, Raw(result)] if result else ledger.held
        if results:
            head = encode_results(self.number, results, ledger.first)
            self.connection.send([head, *buffers])
            ledger.sent(len(results), now)

    def _forget_messages(self) -> Sequence[tuple[int, int, Parts]]:
        """Drop the call's messages; returns them if the call could not begin here."""
        with self.lock:
            unread = []
            if self._not_run:
                for port, box in ((0, self.inbox), (SERVICES, self.letters)):
                    unread += [(port, sender, payload) for sender, payload in box]
            self._not_run = False
            self.inbox.clear()
            self.letters.clear()
            self._routes.clear()
            # A new object: threads that the task has left have the old one.
            self.prepared = PreparedSends(most=MOST_PREPARED)
        return unread

    def _outcome(self, call: Call, buffers: Parts) -> tuple[Parts, bool]:
        try:
            with self.isolation:
                self.interruptible = True
                try:
                    if self.stopping:  # the signal arrived before the call was interruptible
                        return _NOT_BEGUN, False
                    value = self._context.copy().run(self._value, call, buffers)
                finally:
                    self.interruptible = False
                return [_NONE] if value is None else dump_result(value), True
        except BaseException as exc:  # noqa: BLE001 - the result of the task
            self._not_run = issubclass(type(exc), NotImportable)
            return dump_failure(exc), False

    def _value(self, call: Call, buffers: Parts) -> Any:
        task, number, arguments, _, setup = call
        RUNNING_CALL.set((self, task))
        try:
            if setup:
                return self._value_set_up(call, buffers, load([setup]))
            function = self._functions[number]
            if not callable(function):
                function = self._load(number)
            args, kwargs = load(disclosed(arguments, buffers) if buffers else (arguments,))
            return called(function, args, kwargs)
        finally:
            self._task = None

    def _value_set_up(self, call: Call, buffers: Parts, setup: Setup) -> Any:
        """The value of a call with options."""
        number, function_number, arguments, _, _ = call
        self._task = task = CurrentTask(self, number, setup.name)
        made = self._set_up(number, setup)
        function = self._functions[function_number]
        if not callable(function):
            function = self._load(function_number)
            if made is not None:
                made.give(function)
        args, kwargs = load(disclosed(arguments, buffers))
        if made is not None:  # a callable object is an argument of a function that calls it
            for arg in args:
                made.give(arg)
        if setup.folder is None:
            return called(function, args, kwargs)
        # imported here, because few calls have one
        from encamp.slot.call_folder import Rescuer, in_folder
        from encamp.storage.files_by_request import SpawnersFiles

        rescues = self.supervisor and setup.folder.on_failure
        rescuer = Rescuer(self.supervisor, self.ledger.note) if rescues else None
        files = SpawnersFiles(self.ask)
        return in_folder(setup.folder, task, files, rescuer, function, args, kwargs)

    def _set_up(self, task: int, setup: Setup) -> Initialized | None:
        extend_import_path(setup.sys_path)
        self.follow = setup.follow
        own = {**dict(setup.environment), **self._threads(setup.cores)}
        os.environ.update(own)
        if setup.report_start:
            self.connection.send([encode(Started(self.number, task))])
        number = setup.initializer
        if not number:
            return None
        if number not in self._initialized:
            self._initialized[number] = self._initialize(self._functions[number])
            del self._functions[number]
            self._context = copy_context()
            kept = {name: os.environ.get(name) for name in own}
            self.isolation.keep(
                except_for=[name for name, text in kept.items() if text == own[name]]
            )
        return self._initialized[number]

    def _threads(self, cores: int) -> dict[str, str]:
        """The variables for libraries' threads; none if they would not be undone after the call."""
        return of_task(cores) if isinstance(self.isolation, ProcessRestored) else {}

    def _initialize(self, payload: Any) -> Initialized:
        from encamp.slot.initializer_globals import Initialized  # here, as few slots need it

        function, args = load([payload])
        try:
            return Initialized(function, args)
        except Stopped:
            raise
        except BaseException as exc:
            name = getattr(function, "__qualname__", repr(function))
            raise InitializerFailed(name, self.host, words_of(exc)) from exc

    def _load(self, number: int) -> Callable[..., Any]:
        try:
            function: Callable[..., Any] = load([self._functions[number]])  # type: ignore[list-item]
        except ModuleNotFoundError as exc:
            raise NotImportable(exc.name or "") from exc
        self._functions[number] = function
        return function


def _task_of(waiting: tuple[Call, Parts]) -> int:
    (task, _, _, _, _), _ = waiting
    return task


_NONE = dump(None)[0]
_NOT_BEGUN = dump_failure(NotBegun())
