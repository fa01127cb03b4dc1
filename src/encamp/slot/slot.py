"""A slot: takes calls, runs them in order, and lets each send and receive messages.

The code is the same for slots that are processes, threads of their agent, or the agent itself; they
differ in the `Connection` through which messages are sent and received.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet

import msgspec
from msgspec import Raw

from encamp.errors import InitializerFailed, Stopped, words_of
from encamp.loop.deferred_signals import if_task_has_any
from encamp.number_checks import as_whole, patience
from encamp.slot.isolation.restore_process import NotIsolated, ProcessRestored
from encamp.slot.ledger import Ledger
from encamp.slot.numerical_threads import of_task
from encamp.slot.run_function import called
from encamp.slot.small_messages import BRIEF, PreparedSends
from encamp.storage.import_path import extend_import_path
from encamp.wire.frames import Buffer, Parts
from encamp.wire.pickling import (
    NotBegun,
    NotImportable,
    disclosed,
    dump,
    dump_as,
    dump_failure,
    dump_result,
    dump_small,
    enclosed,
    load,
    load_small,
)
from encamp.wire.protocol import (
    NOWHERE,
    SERVICES,
    SPAWNER,
    Answer,
    Ask,
    Call,
    Locate,
    Location,
    Message,
    Received,
    Run,
    Started,
    SupervisorMessage,
    addressed,
    decode_calls,
    encode,
    encode_results,
)

if TYPE_CHECKING:
    from encamp.slot.initializer_globals import Initialized
    from encamp.slot.small_messages import TaskShortcut
    from encamp.storage.folder_life import FolderPlan


_NOTHING: Parts = []
_MOST_TASKS = 1 << 63
_MOST_PREPARED = 1000
"""Maximum number of receivers that a task has prepared sends for."""
FORKED = -2
"""The running task's number in a process that a call has forked."""
_WITH_CONTROLLER = NOWHERE, NOWHERE, 0
INLINE_THREADS = (
    "an inline task can send and receive only in the thread that runs it; "
    "use inline='threads', or slots that are processes"
)
T = TypeVar("T")


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


class Connection(Protocol):
    """A slot's connection to its agent and to other slots."""

    @property
    def shortcut(self) -> TaskShortcut | None:
        """The shortcut for small messages, if there is one."""

    def send(self, parts: Parts, message: Message | None = None) -> None:
        """Send to the agent. ``message`` is the envelope of what the agent has to pass on."""

    def send_to(self, slot: int, parts: Parts) -> bool:
        """Send to another slot of this host over a link; False if there is none."""

    def until(self, found: Callable[[], T | None], timeout: float | None) -> T | None:
        """Wait until ``found``, called after each arrival, returns something other than None.

        Returns that, or None on timeout. What arrives is given to `Slot.take`.
        """

    def wake_waiters(self) -> None:
        """Wake all threads that wait in `until`."""


class Slot:
    """Runs calls one after the other. ``number`` is its number on its host."""

    def __init__(
        self, number: int, host: str, connection: Connection, agent: int = 0, cluster: str = ""
    ) -> None:
        self.number, self.host, self.agent, self.cluster = number, host, agent, cluster
        self.connection = connection
        _slots.add(self)
        self.beside = False
        """Whether it is a thread of the program that has spawned the tasks."""
        self.thread = threading.get_ident()
        """The only thread that may use the shortcut for small messages."""
        self.lock = threading.Lock()
        """Must be held to change ``calls`` or ``running``."""
        self.calls: deque[tuple[Call, Parts]] = deque()
        """The waiting calls, with the large buffers of their arguments."""
        self.running = -1
        self._task: CurrentTask | None = None
        self.isolation = NotIsolated()
        """The context of each call, which undoes its effects on the process."""
        self._context = copy_context()
        """Each call gets a copy, so that its context variables are its own."""
        self.follow = False
        """Whether to send the running call's output while it runs."""
        self.ended: Callable[[int], None] | None = None
        """Called with a task's number before its result is sent."""
        self._functions: dict[int, Buffer | Callable[..., Any]] = {}
        self.inbox: deque[tuple[int, Parts]] = deque()
        self.letters: deque[tuple[int, Parts]] = deque()
        """Messages for services in the running task, with their senders."""
        self._early: dict[int, list[tuple[int, int, Parts]]] = {}
        """By task, messages for calls that wait here, or that have not arrived yet."""
        self._expected: dict[int, int] = {}
        """By task with messages but no call yet, the number of the `Run` that brings the call."""
        self._latest = 0
        self._routes: dict[int, tuple[int, int, int]] = {}
        self.prepared = PreparedSends(most=_MOST_PREPARED)
        """The running task's prepared sends."""
        self._answers: dict[int, tuple[bool, Parts] | None] = {}
        """By ticket, answers to questions; None until the answer arrives."""
        # Not from 1: an answer to a question of this slot's previous process may still arrive.
        self._tickets = count(int.from_bytes(os.urandom(7), "little"))
        self.ledger = Ledger()
        """The results that are held back."""
        self.leaves = False
        """Whether its process will end now, for a new one."""
        self.can_leave = False
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
            self.prepared = PreparedSends(most=_MOST_PREPARED)
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
        _current.set((self, task))
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
        from encamp.slot.call_folder import in_folder  # imported here, because few calls have one
        from encamp.storage.files_by_request import SpawnersFiles

        return in_folder(setup.folder, task, SpawnersFiles(self.ask), function, args, kwargs)

    @property
    def task(self) -> CurrentTask:
        """The running task as its code sees it."""
        if self._task is None:
            self._task = CurrentTask(self, self.running, "")
        return self._task

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
            self.isolation.keep(besides=[name for name, text in kept.items() if text == own[name]])
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

    def send_to_supervisor(self, message: object) -> None:
        """Send a message to the supervisor of the running call."""
        self.connection.send([encode(SupervisorMessage(self.number, self.running)), *dump(message)])

    def note(self, message: object) -> None:
        """Leave a note, which the supervisor of the running call reads from time to time.

        It replaces the previous note; a note that is too long is sent as a message.
        """
        if not self.ledger.note(pickle.dumps((self.running, message))):
            self.send_to_supervisor(message)

    def ask(self, question: object) -> Any:
        """The controller's answer to a question; blocks. Raises the error that it answers with."""
        with if_task_has_any():
            payload = dump(question)
        ok, parts = self._answer(next(self._tickets), payload)
        answer = load(parts)
        if not ok:
            raise answer
        return answer

    def _answer(self, ticket: int, question: Parts) -> tuple[bool, Parts]:
        """Ask, and wait for the answer. If the wait is interrupted, the answer is dropped."""
        self._answers[ticket] = None
        try:
            self.connection.send([encode(Ask(self.number, self.running, ticket)), *question])
            answer = self.connection.until(lambda: self._answers[ticket], None)
            assert answer is not None  # noqa: S101 - there is no time limit
            return answer
        finally:
            del self._answers[ticket]

    def send(self, sender: int, to: int, message: object) -> None:
        """Send a message from the running task to another."""
        where = _WITH_CONTROLLER if to == SPAWNER else self._routes.get(to) or self._route(to)
        envelope, head = addressed(to, sender, *where)
        with if_task_has_any():  # an exception of a handler must not look like one of the message
            parts = [head, *dump_as("the message", message)]
        if envelope.agent != self.agent or not self.connection.send_to(envelope.slot, parts):
            self.connection.send(parts, envelope)
        shortcut = self.connection.shortcut
        if shortcut is not None and envelope.agent != self.agent:
            self.prepared.sent(envelope, shortcut.prepare)

    def post(self, sender: int, to: int, port: int, parts: Parts) -> None:
        """Send parts to a port of another task, or of the controller's program."""
        where = _WITH_CONTROLLER if to == SPAWNER else self._routes.get(to) or self._route(to)
        envelope, head = addressed(to, sender, *where, port)
        whole = [head, *parts]
        if envelope.agent != self.agent or not self.connection.send_to(envelope.slot, whole):
            self.connection.send(whole, envelope)

    def _route(self, to: int) -> tuple[int, int, int]:
        self.connection.send([encode(Locate(self.number, to))])
        route = self.connection.until(lambda: self._routes.get(to), None)
        assert route is not None  # noqa: S101 - there is no time limit
        return route

    def receive(self, task: int, timeout: float | None, source: int | None) -> Received | None:
        """The next message for the running task; see `CurrentTask.receive`."""
        found = self._from_inbox(task, source)
        if found is None:
            found = self.connection.until(lambda: self._from_inbox(task, source), timeout)
        return None if found is None else Received(found[0], load(found[1]))

    def _from_inbox(self, task: int, source: int | None) -> tuple[int, Parts] | None:
        inbox = self.inbox
        if not inbox and self.running == task:
            return None
        with self.lock:  # other threads of the task may receive, too
            self.check_runs(task)
            for at, (sender, _) in enumerate(inbox):
                if source in (None, sender):
                    found = inbox[at]
                    del inbox[at]
                    return found
        return None

    def check_runs(self, task: int) -> None:
        """Raise if a thread of an earlier task tries to send or receive for this one."""
        if self.running == FORKED:
            raise RuntimeError("a process that a task has forked can neither send nor receive")
        if self.running != task:
            raise RuntimeError(f"task {task} has ended; its threads can no longer send or receive")


def _task_of(waiting: tuple[Call, Parts]) -> int:
    (task, _, _, _, _), _ = waiting
    return task


_slots: WeakSet[Slot] = WeakSet()


def _forked() -> None:
    """In a process that a call has forked: it is not a slot; the messages are for its parent."""
    for slot in list(_slots):
        slot.running = slot.thread = FORKED
        slot.lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
_thread = threading.get_ident
_NONE = dump(None)[0]
_NOT_BEGUN = dump_failure(NotBegun())
_current: ContextVar[tuple[Slot, int] | None] = ContextVar("encamp_slot", default=None)
"""The slot of this context, and the number of its task."""


class CurrentTask:
    """The task in which this code runs; see `current_task`.

    id, parent
        Its number, and the number of the task that spawned it (0: the program).
    name
        Its name in messages and errors.
    host, slot
        The name of its host, and its slot's number there.
    folder
        Its private folder; None if it has none.
    beside
        Whether it runs in the program's own process.
    """

    parent = SPAWNER

    def __init__(self, slot: Slot, task: int, name: str) -> None:
        self._slot, self._prepared, self._shortcut = slot, slot.prepared, slot.connection.shortcut
        self.id = task
        self.name = name or f"task {task}"
        self.host, self.slot, self.beside = slot.host, slot.number, slot.beside
        self.folder: Path | None = None

    def send(self, to: int | Any, message: object) -> None:
        """Send an object to a task (its id, or an object with an ``id``), or to the program (0).

        Objects to one receiver arrive in the order in which they were sent. May block until the
        receiver's process takes it. A message to a task that has ended is dropped.
        """
        number = to if type(to) is int else task_number(to)
        send = self._prepared.get(number)
        if send is not None and not self._shortcut.waiting and _thread() == self._slot.thread:  # type: ignore[union-attr]
            data = dump_small(message)
            if data is not None and send(data):
                return
        self._slot.check_runs(self.id)
        self._slot.send(self.id, task_number(number), message)

    def receive(
        self, timeout: float | None = None, source: int | Any | None = None
    ) -> Received | None:
        """The next message that was sent to this task, or None on timeout.

        ``timeout`` in seconds; None waits forever, 0 does not wait. With ``source``, returns only
        messages of that task; the others stay for later calls, in order.
        """
        if source is not None:
            source = task_number(source)
        if timeout is not None:
            timeout = patience(timeout)
        slot, shortcut = self._slot, self._shortcut
        if shortcut is not None and not slot.inbox and (timeout is None or timeout > BRIEF):
            caught = shortcut.catch(self.id, source) if _thread() == slot.thread else None
            if caught is not None:
                sender, data = caught
                return Received(sender, load_small(data))
        slot.check_runs(self.id)
        return slot.receive(self.id, timeout, source)


def task_number(task: Any) -> int:
    """The id of a task, or of an object with an ``id``; raises TypeError."""
    number = as_whole(task)
    if number is None:
        number = as_whole(getattr(task, "id", None))
    if number is None or not 0 <= number < _MOST_TASKS:
        raise TypeError(f"give a task or its id, not {task!r}")
    return number


def in_a_call() -> bool:
    """Whether this thread runs a call."""
    return _current.get() is not None


def slot_here() -> tuple[Slot, int] | None:
    """The slot of a cluster whose call this thread runs, and the call's task."""
    here = _current.get()
    return here if here is not None and here[0].host else None  # a job's slot has no host's name


def step_here() -> tuple[Slot, int] | None:
    """The slot in which this thread runs a step of a job, and the number of the call."""
    here = _current.get()
    return here if here is not None and not here[0].host else None


def current_task() -> CurrentTask:
    """The task in which this code runs. Raises RuntimeError outside a task.

    Other threads of a task are outside: the task must pass them the result of this function.
    """
    here = slot_here()
    if here is None:
        if in_a_call():
            raise RuntimeError(
                "a step of a job cannot send messages; a task of `Cluster.spawn` can"
            )
        raise RuntimeError("this code does not run in a task of a cluster, nor in its first thread")
    slot, task = here
    slot.check_runs(task)  # a thread with a copy of the task's context may have outlived it
    return slot.task


def ask_here() -> Callable[[object], Any] | None:
    """A function that asks the controller of the cluster whose task this thread runs, or None."""
    here = _current.get()
    return None if here is None else here[0].ask
