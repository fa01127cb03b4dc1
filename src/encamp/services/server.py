"""A server: the task that holds a service's object, and runs the calls that arrive for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from encamp.errors import BadJob, GroupBroken, ProxyReleased, ServiceEnded, Stopped
from encamp.number_checks import patience, whole
from encamp.services.call_statistics import CallCounter
from encamp.services.checkpoint import Checkpoint, restored
from encamp.services.current_client import task_client
from encamp.services.letters import (
    APPLY,
    CALL,
    END,
    GROUP,
    READ,
    RELEASE,
    WRITE,
    Alive,
    Answers,
    CallAnswer,
    Calls,
    GroupMessage,
    Probe,
    Ready,
    Saved,
    ServiceCall,
    Stopping,
    encode,
)
from encamp.services.task_client import TaskClient
from encamp.slot.current_task import TaskSlot
from encamp.slot.ledger import HOLD
from encamp.slot.run_function import called
from encamp.wire.frames import Parts
from encamp.wire.pickling import disclosed, dump, dump_failure, dump_result, enclosed, load
from encamp.wire.protocol import SERVICES, SPAWNER

_MOST_HELD = 200
_LOOK = 4 * HOLD
"""Seconds after which held answers are sent, whatever the server is doing."""
_IDLE_LOOKS = 5
_LOOKS = 10
"""How many times per ``call_limit`` a busy server checks for a `Probe`."""


@dataclass(frozen=True)
class Blueprint:
    """How to create a server's object; pickled when the service is published.

    ``parts`` is the pickle of a class or function and its arguments, or, if it is ``made``, of the
    object itself.
    """

    parts: tuple[bytes, ...]
    made: bool


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server. ``checkpoint_every`` is a number of calls, 0 for never."""

    service: str
    server: int
    checkpoint_every: int
    idle_limit: float | None
    call_limit: float | None = None


@dataclass(frozen=True)
class ParameterCall:
    """A call that sets and reads parameter values: ``set_NAME(value)``, or the attribute."""

    values: dict[str, Any]
    read: tuple[str, ...]
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def serve(settings: ServerSettings, blueprint: Blueprint, state: bytes | None = None) -> None:
    """Run a server until it is asked to end; this is the function of its task."""
    client = task_client()
    assert client is not None  # noqa: S101 - it is a task
    server = Server(client, settings)
    token = _current.set(server)
    try:
        server.make(blueprint, state)
        server.run()
    except Stopped:
        server.stopping()
        raise
    finally:
        server.over()
        _current.reset(token)


class Server:
    """A server in its slot."""

    def __init__(self, client: TaskClient, settings: ServerSettings) -> None:
        self.task_client, self.settings = client, settings
        self._slot: TaskSlot = client.slot
        self._connection, self._ledger = client.slot.connection, client.slot.ledger
        self._object: Any = None
        self._methods: frozenset[str] = frozenset()
        self._queue: deque[tuple[int, ServiceCall, Parts]] = deque()
        self._ended = 0
        """All leases up to this number have ended: each lease of a server has a larger number."""
        self._over = False
        self._serial = 0
        """Calls that were run."""
        self._checkpoint = Checkpoint(settings.checkpoint_every)
        # Answers that are held back, all for one client
        self._client = SPAWNER
        self._answers: list[CallAnswer] = []
        self._buffers: Parts = []
        self._freed: list[int] = []
        self._sent = self._looked = 0.0
        self._flushing = threading.Lock()
        self._can_hold = client.slot.can_leave
        """Whether another thread can send answers, so that they may be held back."""
        self._flusher: threading.Thread | None = None
        self._wanted = threading.Event()
        self._counter = CallCounter()
        self.lease = 0
        """The lease of the running call."""
        self.groups: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        """By lease: the group, the own rank, and the members' tasks."""
        self._ops: dict[int, Callable[[str, tuple[Any, ...], dict[str, Any]], Any]] = {
            CALL: self._call,
            READ: lambda name, *_: getattr(self._object, name),
            WRITE: lambda name, args, _: setattr(self._object, name, *args),
            APPLY: self._apply,
        }
        client.handle(Probe, lambda *_: self._post(SPAWNER, [encode(Alive())]))

    def make(self, blueprint: Blueprint, state: bytes | None) -> None:
        """Create the object, with its predecessor's ``state`` if there is any, and report ready."""
        loaded = load(blueprint.parts)
        kind, args, kwargs = (None, (), {}) if blueprint.made else loaded
        replaced = isinstance(kind, type) and not hasattr(kind, "restore")
        if state is None or not replaced:
            self._object = loaded if blueprint.made else called(kind, args, kwargs)
        if state is not None:
            name = kind.__name__ if replaced else type(self._object).__name__
            self._object, (self._ended, self.groups) = restored(self._object, state, name)
        self._methods = frozenset(methods_of(self._object))
        name = type(self._object).__name__
        ready = Ready(self.settings.server, name, sorted(self._methods))
        self._post(SPAWNER, [encode(ready)])

    # Calls, one after the other

    def run(self) -> None:
        """Run calls until the server is asked to end."""
        own, requests, queue = self.task_client, self.task_client.requests, self._queue
        while not self._over:
            if self.settings.call_limit is not None:
                self._look(self.settings.call_limit)
            if self._slot.letters:
                own.drain()
            while requests:
                client, letter, buffers = requests.popleft()
                self._unpack(client, letter, buffers)
            if queue:
                self._one(*queue.popleft())
            else:
                if self._answers or self._freed:
                    self._flush()
                if not own.until(lambda: requests, self.settings.idle_limit):
                    break
        for client, call, _ in queue:
            self._refuse(client, call, ServiceEnded(self.settings.service))
        self._flush()

    def _look(self, limit: float) -> None:
        """Answer whether it is alive, while queued calls keep it busy."""
        if time.monotonic() - self._looked > limit / _LOOKS:
            self.task_client.look()
            self._looked = time.monotonic()

    def _unpack(self, client: int, letter: Calls, buffers: Parts) -> None:
        at = 0
        for call in letter.calls:
            _, _, _, _, _, count = call
            self._queue.append((client, call, buffers[at : at + count] if count else buffers[:0]))
            at += count

    def _one(self, client: int, call: ServiceCall, buffers: Parts) -> None:
        number, lease, op, name, payload, _ = call
        self._serial += 1
        if client != self._client:
            self._flush()
            self._client = client
        if op == END:
            self._over = True
            return
        has_ended = lease <= self._ended
        self._end_leases(lease if op == RELEASE else lease - 1)
        if op == RELEASE:
            if not has_ended:
                self._report_release(lease)
            return
        if has_ended:
            self._refuse(client, call, ProxyReleased(self.settings.service))
            return
        if op == GROUP:
            self.groups[lease] = load([payload])
            return
        self._ledger.mark(client, 2 * number)  # see `Stopping`
        self.lease = lease
        begun = time.perf_counter()
        try:
            args, kwargs = load(disclosed(payload, buffers)) if payload or buffers else ((), {})
            parts, good = dump_result(self._ops[op](name, args, kwargs)), True
        except Stopped:
            raise
        except BaseException as exc:  # noqa: BLE001 - whose call it is decides what it means
            parts, good = dump_failure(exc), False
        self._ledger.mark(client, 2 * number + 1)
        now = time.perf_counter()
        self._counter.count(now - begun, good=good)
        self._answer(number, good, parts, now)
        if self._checkpoint.is_due(self._serial):
            self._save()

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return called(getattr(self._object, name), args, kwargs)

    def _apply(self, name: str, args: tuple[ParameterCall], kwargs: dict[str, Any]) -> Any:
        """Set values, make the call, and read values; returns its value and the read ones."""
        wanted = args[0]
        for key, value in wanted.values.items():
            setter = f"set_{key}"
            if setter in self._methods:
                called(getattr(self._object, setter), (value,))
            else:
                setattr(self._object, key, value)
        value = called(getattr(self._object, wanted.method), wanted.args, wanted.kwargs)
        read = {}
        for key in wanted.read:
            getter = f"get_{key}"
            found = getattr(self._object, getter if getter in self._methods else key)
            read[key] = called(found) if getter in self._methods else found
        return value, read

    def _end_leases(self, last: int) -> None:
        """Refuse calls of all leases up to ``last``: a server has one lease at a time."""
        if last > self._ended:
            self._ended = last
            self.groups = {lease: group for lease, group in self.groups.items() if lease > last}

    def _report_release(self, lease: int) -> None:
        self._freed.append(lease)
        if self._client != SPAWNER or not self._queue:
            self._flush()

    # Answers

    def _answer(self, number: int, good: bool, parts: Parts, now: float) -> None:
        payload, buffers = enclosed(parts)
        with self._flushing:
            self._answers.append((number, good, payload, len(buffers)))
            self._buffers += buffers
        hold = self._queue and self._can_hold and not buffers and now - self._sent < HOLD
        if not hold or len(self._answers) >= _MOST_HELD:
            self._flush(now)
        elif self._flusher is None or not self._wanted.is_set():
            self._have_flushed()

    def _refuse(self, client: int, call: ServiceCall, error: BaseException) -> None:
        if client != self._client:
            self._flush()
            self._client = client
        number, _, op, _, _, _ = call
        if op not in (RELEASE, END, GROUP):
            self._answer(number, False, dump_failure(error), time.perf_counter())

    def _flush(self, now: float = 0.0) -> None:
        """Send held answers, and report ended leases."""
        with self._flushing:
            answers, buffers, freed = self._answers, self._buffers, self._freed
            if not (answers or freed):
                return
            self._answers, self._buffers, self._freed = [], [], []
            server, client = self.settings.server, self._client
            if answers:
                last, _, _, _ = answers[-1]
                self.task_client.answered[client] = last
            statistics = self._counter.statistics()
            if client == SPAWNER:
                letter = Answers(server, answers, freed, statistics)
                self._post(client, [encode(letter), *buffers])
            else:
                if answers:
                    letter = Answers(server, answers, [], statistics)
                    self._post(client, [encode(letter), *buffers])
                if freed:
                    self._post(SPAWNER, [encode(Answers(server, [], freed, statistics))])
            self._sent = now or time.perf_counter()

    def _have_flushed(self) -> None:
        """Make sure that held answers are sent even if the next call takes long."""
        if self._flusher is None:
            self._flusher = threading.Thread(
                target=self._look_after, name="encamp-answers", daemon=True
            )
            self._flusher.start()
        self._wanted.set()

    def _look_after(self) -> None:
        looks = 0
        while not self._over:
            if looks > _IDLE_LOOKS:
                self._wanted.clear()
                if not self._answers:
                    self._wanted.wait()
                looks = 0
            before = self._counter.calls
            time.sleep(_LOOK)
            try:
                if self._answers and self._counter.calls == before:
                    self._flush()
            except (OSError, RuntimeError):
                return  # the task has ended
            looks = 0 if self._answers else looks + 1

    def _post(self, to: int, parts: Parts) -> None:
        self._slot.post(self.task_client.id, to, SERVICES, parts)

    def _save(self) -> None:
        self._flush()
        leases = self._ended, self.groups
        parts = self._checkpoint.state_of(self._object, leases, self._serial)
        self._post(SPAWNER, [encode(Saved(self.settings.server, self._serial)), *parts])

    # Its end

    def over(self) -> None:
        """Stop making calls."""
        self._over = True
        self._wanted.set()

    def stopping(self) -> None:
        """Report which call was running when the server was asked to stop."""
        about, mark = self._ledger.now
        self._post(SPAWNER, [encode(Stopping(self.settings.server, about, mark))])

    # For the server's object

    def send(self, rank: int, message: object) -> None:
        """Send an object to the member with this rank."""
        group, own, tasks = self._talking()
        _check_rank(rank, len(tasks))
        letter = encode(GroupMessage(group, own))
        self._post(tasks[rank], [letter, *dump(message)])

    def receive(self, timeout: float | None, rank: int | None) -> tuple[int, Any] | None:
        """The next message of a member, or None on timeout."""
        timeout = patience(timeout)
        group, _, tasks = self._talking()
        if rank is not None:
            _check_rank(rank, len(tasks))
        box = self.task_client.between.setdefault(group, deque())
        found: list[tuple[int, Parts]] = []

        def arrived() -> bool:
            for at, (sender, parts) in enumerate(box):
                if rank in (None, sender):
                    del box[at]
                    found.append((sender, parts))
                    return True
            return group in self.task_client.broken

        self._flush()
        self.task_client.until(arrived, timeout)
        if found:
            return found[0][0], load(found[0][1])
        if group in self.task_client.broken:
            raise GroupBroken(self.settings.service)
        return None

    def _talking(self) -> tuple[int, int, tuple[int, ...]]:
        group = self._group()
        if SPAWNER in group[2]:
            raise RuntimeError(
                "servers of a service with at_least_once=True cannot send each other messages"
            )
        return group

    def _group(self) -> tuple[int, int, tuple[int, ...]]:
        try:
            return self.groups[self.lease]
        except KeyError:
            raise RuntimeError(
                "this call was not made through a group; acquire one with service.group()"
            ) from None


def _check_rank(rank: int, size: int) -> None:
    if whole("rank", rank, 0) >= size:
        raise BadJob("rank", f"must be less than {size}, the size of the group, not {rank!r}")


_current: ContextVar[Server | None] = ContextVar("encamp_server", default=None)


class CurrentServer:
    """The server in which a method of a service's object runs.

    ``service`` is the service's name, ``server`` the server's number. ``rank`` and ``size`` are
    those of the group that the call was made for.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.service, self.server = server.settings.service, server.settings.server

    @property
    def rank(self) -> int:
        """The server's rank in the group, from 0. RuntimeError if the call is not for a group."""
        return self._server._group()[1]

    @property
    def size(self) -> int:
        """How many members the group has. RuntimeError if the call is not for a group."""
        return len(self._server._group()[2])

    def send(self, rank: int, message: object) -> None:
        """Send an object to another member of the group; does not wait until it is received."""
        self._server.send(rank, message)

    def receive(
        self, timeout: float | None = None, rank: int | None = None
    ) -> tuple[int, Any] | None:
        """The rank of a member and its message; with ``rank`` only from that one.

        Waits forever (None), not at all (0) or some seconds; returns None on timeout. Raises
        `GroupBroken` if a member has ended.
        """
        return self._server.receive(timeout, rank)


def current_server() -> CurrentServer:
    """The server that this code runs in; RuntimeError outside a service's object."""
    server = _current.get()
    if server is None:
        raise RuntimeError("this code does not run in a server of a service")
    return CurrentServer(server)


def methods_of(one: object) -> list[str]:
    """The names of an object's public methods."""
    kind = type(one)
    names = {*dir(kind), *getattr(one, "__dict__", ())}
    found = []
    for name in names:
        if name.startswith("_"):
            continue
        own = getattr(one, "__dict__", {}).get(name, getattr(kind, name, None))
        if callable(own):
            found.append(name)
    return found
