"""The client of services: what a program, a task and a step of a job need to call servers.

One client serves all proxies of its program or task. It has no threads: a thread that waits for a
result handles the letters that arrive.
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from encamp.errors import ClusterError, ServiceError
from encamp.services.call_outcomes import about, settle
from encamp.services.letters import (
    RELEASE,
    Acquire,
    Answers,
    Calls,
    Forget,
    Granted,
    Inquiry,
    LeaseEnded,
    Letter,
    NewClient,
    Refused,
    Reply,
    ServerGone,
    ServiceCall,
    encode,
)
from encamp.services.result import Awaited, Result
from encamp.wire.frames import Parts
from encamp.wire.pickling import disclosed, dump, enclosed, load
from encamp.wire.protocol import SPAWNER

_MOST = 1000
"""Maximum number of calls in one message."""


class Question(Awaited):
    """A question about a service; its result is the answer."""

    ticket = 0
    service = 0


class Acquisition(Question):
    """A request for servers; its result is the letter `Granted`."""


class Outgoing:
    """One call to a server, until it is sent."""

    __slots__ = ("buffers", "lease", "name", "op", "payload", "result", "route")

    def __init__(
        self, route: Route, lease: int, op: int, name: str, parts: Parts, result: Result | None
    ) -> None:
        self.route, self.lease, self.op, self.name, self.result = route, lease, op, name, result
        self.payload, self.buffers = enclosed(parts) if parts else (b"", parts)


class Route:
    """How to reach a server: its number, and its task, or the spawner if the registry relays."""

    __slots__ = ("server", "to")

    def __init__(self, server: int, to: int) -> None:
        self.server, self.to = server, to


class Client(ABC):
    """Sends calls and questions, and settles results. Its methods are for any thread.

    ``id`` is the number of its task; `SPAWNER` for the program.
    """

    def __init__(self, number: int) -> None:
        self.id = number
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._outgoing: deque[Outgoing] = deque()
        self._together = 0
        """Number of `together` blocks that are open."""
        self._sending = threading.Lock()
        self._pending: dict[int, dict[int, Result]] = {}
        """By server and number of the call, calls without an answer yet."""
        self._asked: dict[int, Question] = {}
        """By ticket."""
        self._known: set[int] = set()
        """Servers whose loss the registry reports to this client."""
        self._lost: dict[int, ServiceError] = {}
        self._left: deque[Callable[[], object]] = deque()
        """Results to be settled: a callback that waits for another result continues with these."""
        self._handlers: dict[type, Callable[[Any, Parts], None]] = {
            Answers: self._answers,
            Granted: self._granted,
            Refused: self._refused,
            Reply: self._reply,
            ServerGone: self._server_gone,
        }

    # What the kinds of clients do differently

    @abstractmethod
    def wait(self, what: Awaited, timeout: float | None) -> None:
        """Wait until ``what`` is done, or for ``timeout`` seconds."""

    @abstractmethod
    def attend(self, what: Awaited) -> None:
        """Make sure that it gets done even if no thread calls `wait`."""

    @abstractmethod
    def send_letter(self, letter: Letter, payload: Parts) -> None:
        """Send a letter to the registry."""

    @abstractmethod
    def _post(self, to: int, parts: Parts) -> None:
        """Send to a task; only while ``_sending`` is held."""

    @abstractmethod
    def _begin(self, route: Route | None) -> None:
        """Send what is in ``_outgoing`` soon; ``route`` is that of the last call in it, if any."""

    def awaits(self, unserved: Collection[int]) -> bool:
        """Whether an answer is awaited, except from the services ``unserved``, without servers."""
        asked = any(one.service not in unserved for one in list(self._asked.values()))
        return bool(asked or self._outgoing or any(self._pending.values()))

    # Calls

    def call(self, outgoing: Outgoing) -> None:
        """Send a call after all calls before it."""
        self._outgoing.append(outgoing)
        if not self._together:
            self._begin(outgoing.route)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send all calls of this block together, at its end."""
        self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            self._begin(None)

    def idle(self, server: int) -> bool:
        """Whether a server has answered all calls of this client."""
        return not self._pending.get(server)

    def flush(self) -> None:
        """Send the queued calls, unless another thread is sending."""
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                self._send()
            finally:
                self._sending.release()

    def _send(self) -> None:
        outgoing = self._outgoing
        calls: list[ServiceCall] = []
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
                one.result.server, one.result.number = route.server, number
                self._pending.setdefault(route.server, {})[number] = one.result
            calls.append((number, one.lease, one.op, one.name, one.payload, len(one.buffers)))
            buffers += one.buffers
        self._send_calls(route, calls, buffers)

    def _send_calls(self, route: Route | None, calls: list[ServiceCall], buffers: Parts) -> None:
        if route is not None and calls:
            client = self.id if route.to == SPAWNER else -1
            letter = Calls(route.server, calls, client)
            if route.to == SPAWNER:
                self.send_letter(letter, buffers)
            else:
                self._post(route.to, [encode(letter), *buffers])

    def _attach(self, route: Route) -> bool:
        """Ask the registry to report the server's loss; False if it is lost already."""
        if route.server not in self._known:
            self._known.add(route.server)
            self.send_letter(NewClient(route.server), [])
        return route.server not in self._lost

    def _fail_unsent(self, one: Outgoing) -> None:
        if one.result is not None:
            error = self._lost[one.route.server]
            self._later(partial(one.result.settle, None, about(error, one.result, False)))

    def _later(self, call: Callable[[], object]) -> None:
        """Make a call that may run callbacks, later, when no lock is held."""
        self._left.append(call)

    def release(
        self, route: Route, lease: int, last: Result | None, *, shared: bool, grouped: bool = False
    ) -> None:
        """End a lease after its calls; ``last`` is the last one.

        ``shared``: others may have made calls, too. ``grouped``: the server is to forget its group.
        If the cluster has ended, there is nothing to release.
        """
        done = not shared and (last is None or last.done())
        with suppress(ClusterError, OSError):
            if done:
                self.send_letter(LeaseEnded(route.server, lease), [])
            if shared or grouped:
                self._release_behind(route, lease)
            elif not done and last is not None:
                self._release_after(route, lease, last)

    def _release_behind(self, route: Route, lease: int) -> None:
        """Let the server report the end of the lease, after the calls that were sent before."""
        self.call(Outgoing(route, lease, RELEASE, "", [], None))

    def _release_after(self, route: Route, lease: int, last: Result) -> None:
        """End a lease when the answer to ``last`` has arrived."""
        self._release_behind(route, lease)

    def drop(self, route: Route, lease: int, last: Result | None, *, grouped: bool) -> None:
        """`release`, later, because this may be called at any point, as by a destructor."""
        self._later(partial(self.release, route, lease, last, shared=False, grouped=grouped))

    # Questions to the registry

    def acquire(
        self, service: int, count: int, server: int = 0, *, notice: bool = False
    ) -> Acquisition:
        """Request ``count`` servers (0: all), or the one with number ``server``; see `Acquire`."""
        wanted = Acquisition(self)
        wanted.ticket, wanted.service = next(self._tickets), service
        self._asked[wanted.ticket] = wanted
        self.send_letter(Acquire(service, wanted.ticket, count, server, notice), [])
        return wanted

    def forget(self, wanted: Question) -> None:
        """Withdraw a question, or a request for servers."""
        if self._asked.pop(wanted.ticket, None) is not None:
            self.send_letter(Forget(wanted.ticket), [])

    def ask(self, service: int, what: str, *arguments: Any) -> Question:
        """Ask the registry about a service."""
        asked = Question(self)
        asked.ticket, asked.service = next(self._tickets), service
        self._asked[asked.ticket] = asked
        self.send_letter(Inquiry(service, asked.ticket, what), dump(arguments))
        return asked

    # Letters that arrive

    def take(self, letter: Any, parts: Parts) -> None:
        """Handle a letter; its payload is in ``parts``."""
        handler = self._handlers.get(type(letter))
        if handler is not None:
            handler(letter, parts)

    def handle(self, kind: type[Letter], handler: Callable[[Any, Parts], None]) -> None:
        """Set the handler of a kind of letters."""
        self._handlers[kind] = handler

    def _answers(self, letter: Answers, parts: Parts) -> None:
        pending = self._pending.get(letter.server)
        if not pending:
            return
        at = 0
        for number, good, payload, count in letter.answers:
            result = pending.pop(number, None)
            if result is not None:
                body = disclosed(payload, parts[at : at + count])
                self._left.append(partial(settle, result, good, body))
            at += count

    def _granted(self, letter: Granted, parts: Parts) -> None:
        self._known.update(server for server, _, _ in letter.leases)
        asked = self._asked.pop(letter.ticket, None)
        if asked is None or not asked.settle(letter, None):  # given up just now
            for server, _, lease in letter.leases:
                self.send_letter(LeaseEnded(server, lease), [])

    def _refused(self, letter: Refused, parts: Parts) -> None:
        asked = self._asked.pop(letter.ticket, None)
        if asked is not None:
            asked.settle(None, load(parts))

    def _reply(self, letter: Reply, parts: Parts) -> None:
        asked = self._asked.pop(letter.ticket, None)
        if asked is not None:
            asked.settle(load(parts), None)

    def _server_gone(self, letter: ServerGone, parts: Parts) -> None:
        error: ServiceError = load(parts)
        self._lost[letter.server] = error
        for number, result in self._pending.pop(letter.server, {}).items():
            begun: bool | None = None
            if letter.about >= 0:
                begun = letter.about == self.id and number <= letter.number
            result.settle(None, about(error, result, begun))
