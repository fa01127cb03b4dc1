"""An event loop over sockets and engines, for one thread.

Each turn waits for descriptors and engines, handles all that has arrived, and ends with the
functions that send. In a program, different threads run the loop in turn, see `Pump`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own functions are slow
import select
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

from encamp.engines.engine_interface import Arrival, Endpoint
from encamp.engines.kit.waker import Waker
from encamp.loop.deferred_signals import DeferredSignals
from encamp.loop.polling import Poller

REST = 0.001
MANY = 200
"""With more calls than this waiting for each slot, results are collected before they are read.

Even the shortest calls keep a slot busy for longer than `REST` if there are this many; with fewer,
it might run out of calls.
"""
TURN_WITHIN = 0.02
PASSED = 200
"""At most this many messages are handled without a turn, and none later than `TURN_WITHIN` seconds
after the last one: an exchange without a pause must not keep everything else waiting."""
_SPINS = 32
_FOREVER = 3600.0

Events = list[tuple[int, int]]
Ready = Callable[[int], object]
"""Called with a descriptor's events; returns True if the rest of the turn has nothing to do."""


def by_signal(exc: Exception) -> bool:
    """Whether a signal handler of the program raised the exception, such as for a time limit.

    Such an exception is raised where the program waits.
    """
    handlers = [_signal.getsignal(number) for number in signal.valid_signals()]
    codes = [getattr(handler, "__code__", None) for handler in handlers if callable(handler)]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(exc.__traceback__))


class EventLoop:
    """An event loop. The functions in ``at_turn_end`` are called at the end of each turn, to send.

    A turn in which nothing but messages for this process arrived skips them, unless a function in
    ``due`` returns true, which means that there is something to send.
    """

    def __init__(self) -> None:
        self.at_turn_end: list[Callable[[], None]] = []
        self.due: list[Callable[[], object]] = []
        self.resting: list[Callable[[], None]] = []
        """Called before each poll of descriptors, which may sleep."""
        self._poll = select.epoll()
        self._handlers: dict[int, Ready] = {}
        self._new: set[int] = set()
        """Descriptors added in this turn. Events that were polled before belong to closed ones."""
        self.rest = 0.0
        """Seconds to sleep before a turn, so that messages that arrive singly are read together."""
        self.eager = False
        """Whether to poll before a sleep: there is a core to spare."""
        self._poller = Poller()
        self.broken: Callable[[Exception], None] | None = None
        """Called with what an engine or a handler raises; None: the waiting thread raises it."""
        self._endpoints: list[tuple[Endpoint, Callable[[Arrival], None]]] = []
        self.pending: deque[tuple[Callable[[Any], None], Any]] = deque()
        """Handlers and what arrived for them. A turn within a handler continues with these."""
        self.signals_deferred = DeferredSignals(self.wake)
        self._wake = Waker()
        self.watch(self._wake.fileno(), lambda _: self._wake.rest())
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.calls_due: deque[Callable[[], object]] = deque()
        """Functions to call in the next turn."""
        self._sleeping = False
        self.nudged = False
        """Whether another thread has reported work."""
        self._due = False
        """Whether functions in ``at_turn_end`` may have to send after what was handled."""
        self.turned_at = 0.0
        self.passed = 0
        """How many messages were handled without a turn since the last one."""

    # What is waited for

    def watch(self, fd: int, ready: Ready, *, writable: bool = False) -> None:
        """Call ``ready(events)`` when ``fd`` is readable (or writable); call again to change it."""
        events = select.EPOLLIN | (select.EPOLLOUT if writable else 0)
        if fd in self._handlers:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
            self._new.add(fd)
        self._handlers[fd] = ready

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; call before closing it."""
        if self._handlers.pop(fd, None) is not None:
            with suppress(OSError):
                self._poll.unregister(fd)

    def attach(self, endpoint: Endpoint, handle: Callable[[Arrival], None]) -> None:
        """Pass what arrives at an engine's endpoint to ``handle``."""
        self._endpoints.append((endpoint, handle))
        for fd in endpoint.descriptors():
            self.watch(fd, lambda _: None)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function after some seconds, in the thread that runs the loop."""
        heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call a function in the next turn; from any thread."""
        self.calls_due.append(call)
        if self._sleeping:
            self.wake()

    def wake(self) -> None:
        """End the sleep of the thread that runs the loop; from any thread."""
        with suppress(OSError):
            self._wake.wake()

    def before_others(self, handle: Callable[[Any], None], arguments: Iterable[Any]) -> None:
        """Call a handler for each argument, before anything else that has arrived."""
        self.pending.extendleft(reversed([(handle, argument) for argument in arguments]))

    # One turn

    def turn(self, timeout: float | None) -> None:
        """Wait for something for at most ``timeout`` seconds, and handle all that has arrived."""
        events, waited = self._wait(timeout)
        with self.signals_deferred:
            self._handle_events(events, waited)

    def _wait(self, timeout: float | None, *, poll_first: bool = False) -> tuple[Events, bool]:
        """Wait for events; returns them, and whether it was allowed to wait for some.

        With ``poll_first`` it may poll for a moment before it sleeps.
        """
        if self.rest and timeout != 0:
            time.sleep(self.rest)
        for rest in self.resting:
            rest()
        limit = 0.0
        if timeout != 0 and not (self.calls_due or self.pending or self._due):
            limit = self._patience(timeout)
        if limit > 0:
            self._sleeping = True
            if self.calls_due or self.nudged:  # set before another thread could see the flag
                limit = 0.0
        if limit > 0 and poll_first and self.eager:
            poll = self._poll.poll
            events = self._poller.wait(partial(poll, 0, 256), partial(poll, limit, 256))
        else:
            events = self._poll.poll(limit, 256)
        self._sleeping = self.nudged = False
        return events, limit > 0

    def _handle_events(self, events: Events, waited: bool) -> None:
        """Handle the events and all that is due. Signals must be deferred."""
        handlers, new = self._handlers, self._new
        new.clear()
        all_done = waited and bool(events)
        try:
            for fd, event in events:
                handler = handlers.get(fd)
                if handler is not None and fd not in new and handler(event) is not True:
                    all_done = False
            if self.pending:
                self._handle_pending()
            if not all_done or self._more_to_do():
                self._rest_of_turn()
        except Exception as exc:  # noqa: BLE001 - not an error of the thread that waits
            self._break(exc)

    def descriptors_ready(self) -> bool:
        """Whether a descriptor has events; handles none. For the thread that runs the loop."""
        return bool(self._poll.poll(0, 1))

    def _break(self, exc: Exception) -> None:
        """Pass an error of an engine or a handler to ``broken``; raises it if there is none."""
        if self.broken is None or by_signal(exc):
            raise exc
        self.broken(exc)

    def _more_to_do(self) -> bool:
        """Whether messages for this process have to be followed by a full turn.

        True from time to time in any case.
        """
        self.passed += 1
        if self.calls_due or self._due or self.passed > PASSED:
            return True
        for due in self.due:
            if due():
                return True
        for endpoint, _ in self._endpoints:
            if endpoint.patience() == 0:
                return True
        return time.monotonic() - self.turned_at > TURN_WITHIN

    def _rest_of_turn(self) -> None:
        """A turn without descriptors: engines, ``calls_due``, timers, ``at_turn_end``."""
        self.turned_at = time.monotonic()
        self.passed = 0
        if self._endpoints:
            self._arrivals()
        left = len(self.calls_due)  # those that they add themselves are for the next turn
        while left and self.calls_due:  # one that waits has others called in the meantime
            left -= 1
            self.calls_due.popleft()()
        if self._timers:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heappop(self._timers)[2]()
        if self.pending:
            self._handle_pending()
        self._due = False
        for call in self.at_turn_end:
            call()

    def _patience(self, timeout: float | None) -> float:
        """The longest wait in seconds that engines and timers allow, at most ``timeout``."""
        limit = _FOREVER if timeout is None else timeout
        for endpoint, _ in self._endpoints:
            patience = endpoint.patience()
            if patience is not None and patience < limit:
                limit = patience
        if self._timers:
            limit = min(limit, self._timers[0][0] - time.monotonic())
        return max(limit, 0.0)  # for epoll a negative number means no limit

    def _arrivals(self) -> None:
        again = True
        while again:
            self._handle_pending()
            again = False
            for endpoint, handle in self._endpoints:
                arrivals = self._receive(endpoint)
                if arrivals is None:
                    break
                for arrival in arrivals:
                    self.pending.append((handle, arrival))
                self._handle_pending()
                again = again or (bool(arrivals) and len(self._endpoints) > 1)

    def _receive(self, endpoint: Endpoint) -> Sequence[Arrival] | None:
        """Return what has arrived at an endpoint; None if its engine has failed."""
        try:
            return endpoint.receive()
        except Exception as exc:  # noqa: BLE001 - an engine may be third-party code
            if not by_signal(exc):  # the engine would fail in each turn
                self._detach(endpoint)
            self._break(exc)
            return None

    def _detach(self, endpoint: Endpoint) -> None:
        """Stop receiving from an endpoint, whose descriptors may stay readable forever."""
        self._endpoints = [
            (other, handle) for other, handle in self._endpoints if other is not endpoint
        ]
        for fd in endpoint.descriptors():
            self.forget(fd)

    def _handle_pending(self) -> None:
        pending = self.pending
        while pending:
            handle, argument = pending.popleft()
            handle(argument)

    def spun(self) -> bool:
        """Poll a busy engine a few times, and nothing else, which is faster than a turn.

        Returns whether anything arrived, and also False if the pump has other things to do.
        """
        endpoint = self._only_endpoint()
        if endpoint is None:
            return False
        handle = self._endpoints[0][1]
        for _ in range(_SPINS):
            if endpoint.patience() != 0:
                return False
            arrivals = self._receive(endpoint)
            if arrivals is None:
                return False
            if arrivals:
                with self.signals_deferred:
                    for arrival in arrivals:
                        self.pending.append((handle, arrival))
                    self._due = True
                    try:
                        self._handle_pending()
                    except Exception as exc:  # noqa: BLE001 - as in `turn`
                        self._break(exc)
                return True
        return False

    def _only_endpoint(self) -> Endpoint | None:
        """The endpoint that may be polled without a turn; None if there is anything else to do."""
        busy = self.rest or self.calls_due or self.pending or self.nudged or self.passed > PASSED
        if busy or len(self._endpoints) != 1:
            return None
        return self._endpoints[0][0] if time.monotonic() - self.turned_at < TURN_WITHIN else None

    def close(self) -> None:
        """Release everything."""
        self._poll.close()
        self._wake.close()
