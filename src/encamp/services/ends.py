"""Where calls of services are made: the program's end of a cluster, or a task's.

One end serves all proxies of its process's program or task, without threads: who waits for a result
drives it, as everywhere in encamp.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from encamp.agent.calls import Slot, slot_here
from encamp.agent.pickling import (
    RemoteTraceback,
    disclosed,
    dump,
    enclosed,
    load,
    load_failure,
    traceback_of,
)
from encamp.agent.protocol import SERVICES, SPAWNER
from encamp.cluster.task import FORKED
from encamp.errors import (
    BadFrame,
    CircularCall,
    ClusterClosed,
    ClusterError,
    ServerLost,
    ServiceError,
    words_of,
)
from encamp.services.letters import (
    RELEASE,
    Acquire,
    Answers,
    Ask,
    Between,
    Broken,
    Call,
    Calls,
    Circle,
    Forget,
    Free,
    Granted,
    Letter,
    Lost,
    Refused,
    Told,
    Uses,
    Waits,
    WaitsNoMore,
    decode,
    encode,
)
from encamp.services.result import Awaited, Result
from encamp.wire import Parts, changeable, own

if TYPE_CHECKING:
    from encamp.cluster.controller import Controller
    from encamp.services.registry import Registry

TELL_AFTER = 0.05
"""Seconds of waiting in a task after which the registry is told what for, to find circles."""
_MOST = 1000
"""Calls that go in one message at most."""
_EAGER = 64
"""After how many calls at the latest the program's thread sends them out itself."""


class Acquisition(Awaited):
    """Servers that were asked for; its value is what `Granted` says of them."""

    ticket = 0
    service = 0


class Outgoing:
    """One call on its way to a server."""

    __slots__ = ("buffers", "lease", "name", "op", "payload", "result", "route")

    def __init__(
        self, route: Route, lease: int, op: int, name: str, parts: Parts, result: Result | None
    ) -> None:
        self.route, self.lease, self.op, self.name, self.result = route, lease, op, name, result
        self.payload, self.buffers = enclosed(parts) if parts else (b"", parts)


class Route:
    """How a server is reached: its number, and its task (the spawner: by way of the registry)."""

    __slots__ = ("seat", "to")

    def __init__(self, seat: int, to: int) -> None:
        self.seat, self.to = seat, to


class End(ABC):
    """``id`` is the task's, or the spawner's. All methods may be called by any thread."""

    def __init__(self, number: int) -> None:
        self.id = number
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._outgoing: deque[Outgoing] = deque()
        self._together = 0
        """How many blocks will send what they have gathered."""
        self._sending = threading.Lock()
        self._pending: dict[int, dict[int, Result]] = {}
        """By server and call number, what was sent and not answered."""
        self._asked: dict[int, Awaited] = {}
        """By tickets."""
        self._known: set[int] = set()
        """Servers whose loss is told here."""
        self._lost: dict[int, ServiceError] = {}
        self._left: deque[Callable[[], object]] = deque()
        """What has come and is not settled: a callback that waits goes on with it."""
        self._handlers: dict[type, Callable[[Any, Parts], None]] = {
            Answers: self._answers,
            Granted: self._granted,
            Refused: self._refused,
            Told: self._told,
            Lost: self._is_lost,
        }

    # What depends on where this is

    @abstractmethod
    def wait(self, what: Awaited, timeout: float | None) -> None:
        """Return when ``what`` is done, or the time is over."""

    @abstractmethod
    def attend(self, what: Awaited) -> None:
        """See to it that it is done also while nobody waits by `wait`."""

    @abstractmethod
    def tell(self, letter: Letter, payload: Parts) -> None:
        """Send to the registry."""

    @abstractmethod
    def _post(self, to: int, parts: Parts) -> None:
        """Send to a task; for who holds ``_sending``."""

    @abstractmethod
    def _begin(self, route: Route | None) -> None:
        """Have what is in ``_outgoing``, the last for ``route`` if that is given, sent soon."""

    @property
    def busy(self) -> bool:
        """Whether anything is awaited from servers."""
        return bool(self._outgoing or self._asked or any(self._pending.values()))

    # Calls

    def call(self, outgoing: Outgoing) -> None:
        """Send a call behind all that were sent before."""
        self._outgoing.append(outgoing)
        if not self._together:
            self._begin(outgoing.route)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send all calls that are made in this block at its end, in one go."""
        self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            self._begin(None)

    def idle(self, seat: int) -> bool:
        """Whether nothing is under way to a server."""
        return not self._pending.get(seat)

    def flush(self) -> None:
        """Send what is to go, unless another thread does."""
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                self._send()
            finally:
                self._sending.release()

    def _send(self) -> None:
        outgoing = self._outgoing
        calls: list[Call] = []
        buffers: Parts = []
        route: Route | None = None
        while outgoing:
            one = outgoing.popleft()
            if one.route is not route or len(calls) == _MOST:
                self._send_calls(route, calls, buffers)
                calls, buffers, route = [], [], one.route
                if not self._attach(route):
                    route = None
            if route is None:
                self._fail_unsent(one)
                continue
            number = next(self._numbers)
            if one.result is not None:
                one.result.seat, one.result.number = route.seat, number
                self._pending.setdefault(route.seat, {})[number] = one.result
            calls.append((number, one.lease, one.op, one.name, one.payload, len(one.buffers)))
            buffers += one.buffers
        self._send_calls(route, calls, buffers)

    def _send_calls(self, route: Route | None, calls: list[Call], buffers: Parts) -> None:
        if route is not None and calls:
            client = self.id if route.to == SPAWNER else -1
            letter = Calls(route.seat, calls, client)
            if route.to == SPAWNER:
                self.tell(letter, buffers)
            else:
                self._post(route.to, [encode(letter), *buffers])

    def _attach(self, route: Route) -> bool:
        """Have the server's loss told here; False if it is lost already."""
        if route.seat not in self._known:
            self._known.add(route.seat)
            self.tell(Uses(route.seat), [])
        return route.seat not in self._lost

    def _fail_unsent(self, one: Outgoing) -> None:
        if one.result is not None:
            error = self._lost[one.route.seat]
            self._later(partial(one.result.settle, None, _about(error, one.result, False)))

    def _later(self, call: Callable[[], object]) -> None:
        """Call something that may call anybody's code, where nothing is held."""
        self._left.append(call)

    def release(self, route: Route, lease: int, last: Result | None, *, shared: bool) -> None:
        """End a lease behind its calls, of which ``last`` is the last one.

        ``shared``: others may have made calls, too, or the server is to know of the end. Where the
        cluster is gone there is nothing to release.
        """
        with suppress(ClusterError, OSError):
            if shared:
                self._release_behind(route, lease)
            elif last is None or last.done():
                self.tell(Free(route.seat, lease), [])
            else:
                self._release_after(route, lease, last)

    def _release_behind(self, route: Route, lease: int) -> None:
        """Have the server say that the lease has ended, when it has come so far."""
        self.call(Outgoing(route, lease, RELEASE, "", [], None))

    def _release_after(self, route: Route, lease: int, last: Result) -> None:
        """End a lease when an answer is there."""
        self._release_behind(route, lease)

    def drop(self, route: Route, lease: int, last: Result | None, *, shared: bool) -> None:
        """`release` from anywhere, in the middle of anything: it is done later."""
        self._later(partial(self.release, route, lease, last, shared=shared))

    # What is asked of the registry

    def acquire(self, service: int, count: int, seat: int = 0) -> Acquisition:
        """Ask for servers."""
        wanted = Acquisition(self)
        wanted.ticket, wanted.service = next(self._tickets), service
        self._asked[wanted.ticket] = wanted
        self.tell(Acquire(service, wanted.ticket, count, seat), [])
        return wanted

    def forget(self, wanted: Acquisition) -> None:
        """Nobody waits for servers any more."""
        if self._asked.pop(wanted.ticket, None) is not None:
            self.tell(Forget(wanted.ticket), [])

    def ask(self, service: int, what: str, *arguments: Any) -> Awaited:
        """Ask something about a service."""
        asked = Awaited(self)
        ticket = next(self._tickets)
        self._asked[ticket] = asked
        self.tell(Ask(service, ticket, what), dump(arguments))
        return asked

    # What comes

    def take(self, letter: Any, parts: Parts) -> None:
        """Handle a letter; its payload is in ``parts``."""
        handler = self._handlers.get(type(letter))
        if handler is not None:
            handler(letter, parts)

    def handle(self, kind: type[Letter], handler: Callable[[Any, Parts], None]) -> None:
        """Have letters of a kind handled."""
        self._handlers[kind] = handler

    def _answers(self, letter: Answers, parts: Parts) -> None:
        pending = self._pending.get(letter.seat)
        if not pending:
            return
        at = 0
        for number, good, payload, count in letter.answers:
            result = pending.pop(number, None)
            if result is not None:
                body = disclosed(payload, parts[at : at + count])
                self._left.append(partial(_settle, result, good, body))
            at += count

    def _granted(self, letter: Granted, parts: Parts) -> None:
        self._known.update(seat for seat, _, _ in letter.leases)
        asked = self._asked.pop(letter.ticket, None)
        if asked is None or not asked.settle(letter, None):  # given up just now
            for seat, _, lease in letter.leases:
                self.tell(Free(seat, lease), [])

    def _refused(self, letter: Refused, parts: Parts) -> None:
        asked = self._asked.pop(letter.ticket, None)
        if asked is not None:
            asked.settle(None, load(parts))

    def _told(self, letter: Told, parts: Parts) -> None:
        asked = self._asked.pop(letter.ticket, None)
        if asked is not None:
            asked.settle(load(parts), None)

    def _is_lost(self, letter: Lost, parts: Parts) -> None:
        error: ServiceError = load(parts)
        self._lost[letter.seat] = error
        for number, result in self._pending.pop(letter.seat, {}).items():
            begun: bool | None = None
            if letter.about >= 0:
                begun = letter.about == self.id and number <= letter.number
            result.settle(None, _about(error, result, begun))


def _about(error: ServiceError, result: Result, begun: bool | None) -> ServiceError:
    if isinstance(error, ServerLost):
        lost = replace(error, call=result.call, begun=begun)
        lost.__cause__ = error.__cause__
        return lost
    return error


def _call(call: Callable[[], object]) -> None:
    call()


def _settle(result: Result, good: bool, body: Parts) -> None:
    result.settle(*_value(result, good, body))


def _value(result: Result, good: bool, body: Parts) -> tuple[Any, BaseException | None]:
    if good:
        try:
            return load(body), None
        except BaseException as exc:  # noqa: BLE001 - unpickling runs the value's own code
            error: BaseException = RuntimeError(
                f"the result of {result.service}.{result.call} cannot be read here: {words_of(exc)}"
            )
            text = traceback_of(exc)
    else:
        error, text = load_failure(body)
    head = f"{result.service}.{result.call}, server {result.seat}:\n"
    with suppress(BaseException):
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(head + text))
    return None, error


def _wanted(what: Awaited) -> tuple[int, int, int, str]:
    """What a future waits for: a service, a server and a call's number there, and its name."""
    if isinstance(what, Result):
        name = f"{what.service}.{what.call}"
        return (0 if what.seat else what.wanted), what.seat, what.number, name
    if isinstance(what, Acquisition):
        return what.service, 0, 0, "a free server"
    return 0, 0, 0, ""


class ProgramEnd(End):
    """The end of the program that has made the cluster: the registry is in the same process."""

    def __init__(self, controller: Controller, registry: Registry) -> None:
        super().__init__(SPAWNER)
        self._controller, self._registry = controller, registry
        self._pump = controller.pump
        self._pump.turned.insert(0, self.flush)  # before the controller sends what is posted

    @property
    def awaited(self) -> int:
        """How many servers have calls of the program to answer."""
        return len(self._pending)

    def _check(self) -> None:
        if self._pump.elsewhere:
            raise ClusterClosed(FORKED)
        if self._controller.failure is not None:
            raise self._controller.failure
        if self._controller.closing:
            raise ClusterClosed

    def wait(self, what: Awaited, timeout: float | None) -> None:
        """See `End.wait`."""
        self._pump.until(what.done, timeout)
        if not what.done():
            if self._pump.elsewhere:
                raise ClusterClosed(FORKED)
            if self._controller.closing and timeout is None:
                raise ClusterClosed

    def attend(self, what: Awaited) -> None:
        """See `End.attend`: the cluster's thread in the background does."""

    def tell(self, letter: Letter, payload: Parts) -> None:
        """See `End.tell`."""
        self._check()
        self._pump.now(lambda: self._registry.letter(SPAWNER, letter, payload))

    def call(self, outgoing: Outgoing) -> None:
        """See `End.call`; arguments are taken now."""
        self._check()
        if outgoing.buffers and changeable(outgoing.buffers):
            outgoing.buffers = own(outgoing.buffers)
        super().call(outgoing)

    def _begin(self, route: Route | None) -> None:
        at_once = route is None or not self._pending.get(route.seat)
        if at_once or len(self._outgoing) >= _EAGER:
            self._pump.quick(self.flush)

    def _release_after(self, route: Route, lease: int, last: Result) -> None:
        """See `End._release_after`: answers come here also while nobody waits for them."""

        def free(_: object) -> None:
            with suppress(ClusterError, OSError):
                self.tell(Free(route.seat, lease), [])

        last.add_done_callback(free)

    def _post(self, to: int, parts: Parts) -> None:
        self._controller.mail.send(to, SPAWNER, parts, SERVICES)

    def _later(self, call: Callable[[], object]) -> None:
        """See `End._later`."""
        self._pump.soon(partial(_call, call))

    def _answers(self, letter: Answers, parts: Parts) -> None:
        self._take_answers((letter, iter(letter.answers), iter(parts)))

    def _take_answers(self, come: tuple[Answers, Any, Any]) -> None:
        """Take answers; a callback that waits meanwhile goes on with those that are left."""
        letter, answers, parts = come
        pending = self._pending.get(letter.seat)
        if not pending:
            return
        for number, good, payload, count in answers:
            result = pending.pop(number, None)
            body = (
                [payload] if not count else disclosed(payload, [next(parts) for _ in range(count)])
            )
            if result is None:
                continue
            called_back = result._called_back
            if called_back:
                self._pump.before_others(self._take_answers, [come])
            result.settle(*_value(result, good, body))
            if called_back:
                return
        if not pending and self._pending.get(letter.seat) is pending:
            del self._pending[letter.seat]


class TaskEnd(End):
    """The end of a task: letters come to its slot, and whoever waits there takes them."""

    def __init__(self, slot: Slot, task: int) -> None:
        super().__init__(task)
        self.slot = slot
        self.requests: deque[tuple[int, Calls, Parts]] = deque()
        """Calls for the task itself, where it is a server, with who made them."""
        self.answered: dict[int, int] = {}
        """Of each client, the number of the last call that the task has answered as a server."""
        self.held: set[int] = set()
        """Leases that the task has."""
        self.between: dict[int, deque[tuple[int, Parts]]] = {}
        """By groups: what other members have sent, with their ranks."""
        self.broken: set[int] = set()
        """Groups of which a member is gone."""
        self._draining = threading.Lock()
        self._circles: set[int] = set()
        self._attended: set[Awaited] = set()
        self._attendant: threading.Thread | None = None
        self._thread = threading.get_ident()
        self._handlers[Circle] = self._circle
        self._handlers[Between] = self._between
        self._handlers[Broken] = lambda letter, _: self.broken.add(letter.group)

    def tell(self, letter: Letter, payload: Parts) -> None:
        """See `End.tell`."""
        self._post(SPAWNER, [encode(letter), *payload])

    def _post(self, to: int, parts: Parts) -> None:
        self.slot.check_runs(self.id)
        self.slot.post(self.id, to, SERVICES, parts)

    def _begin(self, route: Route | None) -> None:
        self.flush()

    # Waiting

    def drain(self) -> bool:
        """Take what has come; whether there was something."""
        found = False
        while self.slot.letters and (come := self._next()) is not None:
            found = True
            come()
        while self._left:
            found = True
            with suppress(IndexError):  # another thread may have taken it
                self._left.popleft()()
        if found:
            self.slot.port.tell_waiters()
        return found

    def look(self) -> None:
        """Take what has come by now; does not wait."""
        self.slot.port.until(lambda: None, 0)
        self.drain()

    def _next(self) -> Callable[[], None] | None:
        """How to handle the next letter; calls for this task are put into their queue here."""
        letters = self.slot.letters
        with self._draining:  # so that calls keep their order
            while letters:
                sender, parts = letters.popleft()
                with suppress(BadFrame):
                    letter = decode(parts[0])
                    if not isinstance(letter, Calls):
                        return partial(self.take, letter, parts[1:])
                    client = sender if letter.client < 0 else letter.client
                    self.requests.append((client, letter, parts[1:]))
        return None

    def until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Drive until ``done()``, or the time is over."""
        slot, letters = self.slot, self.slot.letters
        deadline = None if timeout is None else time.monotonic() + timeout

        def found() -> bool | None:
            slot.check_runs(self.id)
            return True if letters or done() else None

        while True:
            self.drain()
            if done():
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            slot.port.until(found, left)

    def wait(self, what: Awaited, timeout: float | None) -> None:
        """See `End.wait`; raises `CircularCall` where it would never end."""
        if timeout is not None or threading.get_ident() != self._thread:
            self.until(what.done, timeout)
        elif not self.until(what.done, TELL_AFTER):
            self._wait_long(what)

    def _wait_long(self, what: Awaited) -> None:
        ticket = next(self._tickets)
        service, seat, number, name = _wanted(what)
        if not (seat or service):
            self.until(what.done)
            return
        held = list(self.held)
        self.tell(Waits(ticket, service, seat, number, dict(self.answered), held), [])
        try:
            self.until(lambda: what.done() or ticket in self._circles or _wanted(what)[1] != seat)
        finally:
            self.tell(WaitsNoMore(ticket), [])
        if ticket in self._circles and not what.done():
            if isinstance(what, Acquisition):
                self.forget(what)
            raise CircularCall(name)
        if not what.done():  # it has a server now
            self._wait_long(what)

    def _circle(self, letter: Circle, parts: Parts) -> None:
        self._circles.add(letter.ticket)

    def attend(self, what: Awaited) -> None:
        """See `End.attend`: a thread waits for all of them, as long as there are some."""
        if what.done():
            return
        self._attended.add(what)
        if self._attendant is None or not self._attendant.is_alive():
            self._attendant = threading.Thread(
                target=self._attend, name="encamp-services", daemon=True
            )
            self._attendant.start()

    def _attend(self) -> None:
        with suppress(RuntimeError, EOFError, OSError):  # the task has ended
            while self._attended:
                for what in list(self._attended):
                    if what.done():
                        self._attended.discard(what)
                        continue
                    self.until(what.done)

    # Groups

    def _between(self, letter: Between, parts: Parts) -> None:
        self.between.setdefault(letter.group, deque()).append((letter.rank, parts))

    def _granted(self, letter: Granted, parts: Parts) -> None:
        self.held.update(lease for _, _, lease in letter.leases)
        super()._granted(letter, parts)

    def release(self, route: Route, lease: int, last: Result | None, *, shared: bool) -> None:
        """See `End.release`."""
        self.held.discard(lease)
        super().release(route, lease, last, shared=shared)


_of_slots: WeakKeyDictionary[Slot, TaskEnd] = WeakKeyDictionary()
_of_programs: WeakValueDictionary[str, End] = WeakValueDictionary()
"""By the tokens of clusters."""


def program_end(token: str, end: End) -> None:
    """Have services and proxies of a cluster find the program's end when they are unpickled."""
    _of_programs[token] = end


def task_end() -> TaskEnd | None:
    """The end of the task that this thread runs; None where it runs none."""
    here = slot_here()
    if here is None:
        return None
    slot, task = here
    slot.check_runs(task)
    end = _of_slots.get(slot)
    if end is None or end.id != task:
        end = _of_slots[slot] = TaskEnd(slot, task)
    return end


def end_of(token: str) -> End:
    """Where calls of a cluster's services are made from here."""
    end = task_end() or _of_programs.get(token)
    if end is None:
        raise RuntimeError(
            "a service or proxy can be used in the program that has made its cluster, and in tasks "
            "that were spawned there; a step of a job can give what it has made to the program only"
        )
    return end
