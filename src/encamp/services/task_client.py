"""The client of a task: letters arrive at its slot, and the waiting thread handles them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from encamp.errors import BadFrame, CircularCall
from encamp.services.client import Acquisition, Client, Route
from encamp.services.letters import (
    Calls,
    Deadlock,
    Granted,
    GroupMessage,
    Letter,
    MemberLost,
    WaitEnded,
    WaitStarted,
    decode,
    encode,
)
from encamp.services.result import Awaited, Result
from encamp.slot.current_task import TaskSlot
from encamp.wire.frames import Parts
from encamp.wire.protocol import SERVICES, SPAWNER

REPORT_AFTER = 0.05
"""Seconds after which a waiting task reports what it waits for, so that cycles are found."""


class TaskClient(Client):
    """The client of a task. In a server it also receives the calls that clients make."""

    def __init__(self, slot: TaskSlot, task: int) -> None:
        super().__init__(task)
        self.slot = slot
        self.requests: deque[tuple[int, Calls, Parts]] = deque()
        """If the task is a server, the calls for it, with their clients."""
        self.answered: dict[int, int] = {}
        """If the task is a server, the number of the last call that it has answered each client."""
        self.held: set[int] = set()
        """The task's leases."""
        self.between: dict[int, deque[tuple[int, Parts]]] = {}
        """By group, messages of other members, with their ranks."""
        self.broken: set[int] = set()
        """Groups that have lost a member."""
        self._draining = threading.Lock()
        self._deadlocks: set[int] = set()
        self._attended: set[Awaited] = set()
        self._attendant: threading.Thread | None = None
        self._thread = threading.get_ident()
        self._handlers[Deadlock] = self._deadlock
        self._handlers[GroupMessage] = self._group_message
        self._handlers[MemberLost] = lambda letter, _: self.broken.add(letter.group)

    def send_letter(self, letter: Letter, payload: Parts) -> None:
        """See `Client.send_letter`."""
        self._post(SPAWNER, [encode(letter), *payload])

    def _post(self, to: int, parts: Parts) -> None:
        self.slot.check_runs(self.id)
        self.slot.post(self.id, to, SERVICES, parts)

    def _begin(self, route: Route | None) -> None:
        self.flush()

    # Waiting

    def drain(self) -> bool:
        """Handle what has arrived; returns whether there was anything."""
        found = False
        while self.slot.letters and (handle := self._next()) is not None:
            found = True
            handle()
        while self._left:
            found = True
            with suppress(IndexError):  # another thread may have taken it
                self._left.popleft()()
        if found:
            self.slot.connection.wake_waiters()
        return found

    def look(self) -> None:
        """Handle what has arrived, without waiting."""
        self.slot.connection.until(lambda: None, 0)
        self.drain()

    def _next(self) -> Callable[[], None] | None:
        """A function that handles the next letter; calls for this task are queued instead."""
        letters = self.slot.letters
        with self._draining:  # so that calls stay in order
            while letters:
                sender, parts = letters.popleft()
                try:
                    letter = decode(parts[0])
                except BadFrame:
                    continue
                if not isinstance(letter, Calls):
                    return partial(self.take, letter, parts[1:])
                client = sender if letter.client < 0 else letter.client
                self.requests.append((client, letter, parts[1:]))
        return None

    def until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Handle letters until ``done()``, or for ``timeout`` seconds."""
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
            slot.connection.until(found, left)

    def wait(self, what: Awaited, timeout: float | None) -> None:
        """See `Client.wait`; raises `CircularCall` where it would never end."""
        if timeout is not None or threading.get_ident() != self._thread:
            self.until(what.done, timeout)
        elif not self.until(what.done, REPORT_AFTER):
            self._wait_long(what)

    def _wait_long(self, what: Awaited) -> None:
        ticket = next(self._tickets)
        service, server, number, name = _wanted(what)
        if not (server or service):
            self.until(what.done)
            return
        held = list(self.held)
        self.send_letter(
            WaitStarted(ticket, service, server, number, dict(self.answered), held), []
        )
        try:
            self.until(
                lambda: what.done() or ticket in self._deadlocks or _wanted(what)[1] != server
            )
        finally:
            self.send_letter(WaitEnded(ticket), [])
        if ticket in self._deadlocks and not what.done():
            if isinstance(what, Acquisition):
                self.forget(what)
            raise CircularCall(name)
        if not what.done():  # it has a server now
            self._wait_long(what)

    def _deadlock(self, letter: Deadlock, parts: Parts) -> None:
        self._deadlocks.add(letter.ticket)

    def attend(self, what: Awaited) -> None:
        """See `Client.attend`: one thread waits for all such results until none is left."""
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

    def _group_message(self, letter: GroupMessage, parts: Parts) -> None:
        self.between.setdefault(letter.group, deque()).append((letter.rank, parts))

    def _granted(self, letter: Granted, parts: Parts) -> None:
        self.held.update(lease for _, _, lease in letter.leases)
        super()._granted(letter, parts)

    def release(
        self, route: Route, lease: int, last: Result | None, *, shared: bool, grouped: bool = False
    ) -> None:
        """See `Client.release`."""
        self.held.discard(lease)
        super().release(route, lease, last, shared=shared, grouped=grouped)


def _wanted(what: Awaited) -> tuple[int, int, int, str]:
    """The target of a wait: a service, a server, a call's number there, and a name for it."""
    if isinstance(what, Result):
        name = f"{what.service}.{what.call}"
        return (0 if what.server else what.wanted_service), what.server, what.number, name
    if isinstance(what, Acquisition):
        return what.service, 0, 0, "a free server"
    return 0, 0, 0, ""
