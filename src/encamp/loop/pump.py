"""The pump: one event loop over sockets and engines, driven by whichever thread waits.

A thread that waits for a result or a message drives the loop itself, so that received data need not
be passed between threads. While no thread waits, a background thread drives it. Handlers run in the
driving thread, one at a time.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own functions are slow
import select
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from encamp.engines.base import Arrival, Endpoint
from encamp.engines.kit.waker import Waker
from encamp.loop.deferred_signals import DeferredSignals
from encamp.loop.polling import Poller

T = TypeVar("T")

REST = 0.001
MANY = 32
"""With more calls than that waiting for each slot, results are collected before they are read."""
TURN_WITHIN = 0.02
PASSED = 200
"""Messages may be handled without a turn for so many seconds after the last one, and so many
messages: an exchange without a pause must not keep all else waiting."""
_SPINS = 32
_LINGER = 0.002
"""For so many seconds after a thread has waited it is expected to wait again."""
_NAP = 0.001
_LONG = 0.02
"""After a wait of so many seconds no thread is expected to wait again soon."""
_AT_LEAST = 60.0
"""Seconds that the background thread sleeps at most."""
_FOREVER = 3600.0

Events = list[tuple[int, int]]
Ready = Callable[[int], object]
"""Called with the events of a descriptor. True: they give the rest of the turn nothing to do."""


def by_signal(exc: Exception) -> bool:
    """Whether a signal handler of the program raised the exception, such as for a time limit.

    Such an exception is for the program, at the place where it waits.
    """
    handlers = [_signal.getsignal(number) for number in signal.valid_signals()]
    codes = [getattr(handler, "__code__", None) for handler in handlers if callable(handler)]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(exc.__traceback__))


class Pump:
    """One event loop. The functions in ``turned`` are called at the end of each turn, to send.

    A turn in which nothing but messages for this process arrived skips them, unless a function in
    ``due`` returns true, which says that there is something to send.
    """

    def __init__(self) -> None:
        self.turned: list[Callable[[], None]] = []
        self.due: list[Callable[[], object]] = []
        self.resting: list[Callable[[], None]] = []
        """Called before each look at descriptors, which may be a sleep."""
        self._poll = select.epoll()
        self._handlers: dict[int, Ready] = {}
        self._new: set[int] = set()
        """Descriptors added in this turn: events found before belong to others of the number."""
        self.rest = 0.0
        """Seconds to sleep before a turn, so that messages that come singly are read together."""
        self.eager = False
        """Whether to poll before a sleep: there is a core to spare."""
        self._poller = Poller()
        self.broken: Callable[[Exception], None] | None = None
        """Called with what an engine or a handler raises; None: the waiting thread raises it."""
        self._ends: list[tuple[Endpoint, Callable[[Arrival], None]]] = []
        self.pending: deque[tuple[Callable[[Any], None], Any]] = deque()
        """Handlers and what arrived for them. A turn within a handler goes on with these."""
        self.signals_deferred = DeferredSignals(self.wake)
        self._wake = Waker()
        self.watch(self._wake.fileno(), lambda _: self._wake.rest())
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.orders: deque[Callable[[], object]] = deque()
        self.lock = threading.Lock()
        self._driver = 0
        self._sleeping = False
        self.nudged = False
        self._due = False
        """Whether something was handled after which functions in ``turned`` may have to send."""
        self._claims = 0
        self.left_at = 0.0
        self.turned_at = 0.0
        self.passed = 0
        """How many messages were handled without a turn since the last one."""
        self._since = 0.0
        """When the driver began; set before ``_driver``, as other threads read both."""
        self._changed = threading.Condition()
        self.waiters = 0
        self._resume = threading.Event()
        self._background: threading.Thread | None = None
        self._closed = False
        self.last: Callable[[], None] | None = None
        """The background thread calls this and ends."""
        self.elsewhere = False
        """Whether this process was forked from the one that the pump belongs to."""

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

    def attach(self, end: Endpoint, handle: Callable[[Arrival], None]) -> None:
        """Pass what arrives at an engine's endpoint to ``handle``."""
        self._ends.append((end, handle))
        for fd in end.descriptors():
            self.watch(fd, lambda _: None)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function after some seconds, in the driving thread."""
        heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def soon(self, call: Callable[[], object]) -> None:
        """Call a function in the next turn; from any thread."""
        self.orders.append(call)
        if self._sleeping:
            self.wake()

    def wake(self) -> None:
        """End the sleep of the driving thread; from any thread."""
        with suppress(OSError):
            self._wake.wake()

    def before_others(self, handle: Callable[[Any], None], arguments: Iterable[Any]) -> None:
        """Call a handler for each argument, before anything else that has arrived."""
        self.pending.extendleft(reversed([(handle, argument) for argument in arguments]))

    # One turn

    def turn(self, timeout: float | None) -> None:
        """Wait for something for at most ``timeout`` seconds, and handle all that is there."""
        events, waited = self._wait(timeout)
        with self.signals_deferred:
            self._take_in(events, waited)

    def _wait(self, timeout: float | None, *, poll_first: bool = False) -> tuple[Events, bool]:
        """Wait for events; returns them, and whether it was allowed to wait for some.

        With ``poll_first`` it may poll for a moment before it sleeps.
        """
        if self.rest and timeout != 0:
            time.sleep(self.rest)
        for rest in self.resting:
            rest()
        limit = 0.0
        if timeout != 0 and not (self.orders or self.pending or self._due):
            limit = self._patience(timeout)
        if limit > 0:
            self._sleeping = True
            if self.orders or self.nudged:  # set before another thread could see the flag
                limit = 0.0
        if limit > 0 and poll_first and self.eager:
            poll = self._poll.poll
            events = self._poller.wait(partial(poll, 0, 256), partial(poll, limit, 256))
        else:
            events = self._poll.poll(limit, 256)
        self._sleeping = self.nudged = False
        return events, limit > 0

    def _take_in(self, events: Events, waited: bool) -> None:
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
        if self.waiters:
            self.tell_waiters()

    def descriptors_ready(self) -> bool:
        """Whether a descriptor has events; handles none. For a thread that holds the lock."""
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
        if self.orders or self._due or self.passed > PASSED:
            return True
        for due in self.due:
            if due():
                return True
        for end, _ in self._ends:
            if end.patience() == 0:
                return True
        return time.monotonic() - self.turned_at > TURN_WITHIN

    def _rest_of_turn(self) -> None:
        """All of a turn but the events of descriptors: engines, orders, timers, ``turned``."""
        self.turned_at = time.monotonic()
        self.passed = 0
        if self._ends:
            self._arrivals()
        for _ in range(len(self.orders)):
            self.orders.popleft()()
        if self._timers:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heappop(self._timers)[2]()
        if self.pending:
            self._handle_pending()
        self._due = False
        for turned in self.turned:
            turned()

    def _patience(self, timeout: float | None) -> float:
        """Seconds to wait at most, by the engines and timers."""
        limit = _FOREVER if timeout is None else timeout
        for end, _ in self._ends:
            patience = end.patience()
            if patience is not None and patience < limit:
                limit = patience
        if self._timers:
            limit = min(limit, self._timers[0][0] - time.monotonic())
        return max(limit, 0.0)  # to epoll a negative number is no limit

    def _arrivals(self) -> None:
        again = True
        while again:
            self._handle_pending()
            again = False
            for end, handle in self._ends:
                arrivals = self._receive(end)
                if arrivals is None:
                    break
                for arrival in arrivals:
                    self.pending.append((handle, arrival))
                self._handle_pending()
                again = again or (bool(arrivals) and len(self._ends) > 1)

    def _receive(self, end: Endpoint) -> Sequence[Arrival] | None:
        """What has arrived at an endpoint; None if its engine has failed."""
        try:
            return end.receive()
        except Exception as exc:  # noqa: BLE001 - an engine may be somebody else's code
            if not by_signal(exc):  # the engine would fail in each turn
                self._detach(end)
            self._break(exc)
            return None

    def _detach(self, end: Endpoint) -> None:
        """Stop receiving from an endpoint, whose descriptors may stay readable for ever."""
        self._ends = [(other, handle) for other, handle in self._ends if other is not end]
        for fd in end.descriptors():
            self.forget(fd)

    def _handle_pending(self) -> None:
        pending = self.pending
        while pending:
            handle, argument = pending.popleft()
            handle(argument)

    # Who drives

    def until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until ``done()`` is true; meanwhile this thread drives if no other one does.

        ``done`` is not called again once it was true, so it may have an effect then. Returns False
        if the time is over. Raises the error of a handler if there is no ``broken``.
        """
        if done():
            return True
        me = threading.get_ident()
        if self._driver == me:  # within a handler, which may wait for an answer to what it sends
            self._due = True
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.signals_deferred:
            while True:
                if self.signals_deferred.caught:
                    self.signals_deferred.check()
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or self._closed:
                    return bool(done())
                if self._driver == me:
                    self._take_in(*self._wait(left))
                elif self.lock.acquire(blocking=False) or self._wait_for_lock(left):
                    self._claims = 0
                    self._since, self._driver = time.monotonic(), me
                    try:
                        return self._drive(done, deadline)
                    finally:
                        self._leave()
                if done():
                    return True

    def _drive(self, done: Callable[[], object], deadline: float | None) -> bool:
        while not done():
            if self.signals_deferred.caught:
                self.signals_deferred.check()
            left = None if deadline is None else deadline - time.monotonic()
            if self._closed or (left is not None and left <= 0):
                return False
            if self._ends:
                came = self.spun()
                if done():  # even if nothing came: ``done`` may wait for something to be sent
                    return True
                if came:
                    left = 0.0  # more may have arrived
            self._take_in(*self._wait(left, poll_first=True))
        return True

    def spun(self) -> bool:
        """Poll a busy engine a few times, and nothing else, which is faster than a turn.

        Returns whether anything arrived; False also if the pump has other things to do.
        """
        end = self._only_end()
        if end is None:
            return False
        handle = self._ends[0][1]
        for _ in range(_SPINS):
            if end.patience() != 0:
                return False
            arrivals = self._receive(end)
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

    def _only_end(self) -> Endpoint | None:
        """The endpoint that may be polled without a turn; None if there is anything else to do.

        The background thread leaves the driving to this thread for a while.
        """
        busy = self.rest or self.orders or self.pending or self.nudged or self.passed > PASSED
        if busy or len(self._ends) != 1:
            return None
        self.left_at = now = time.monotonic()
        return self._ends[0][0] if now - self.turned_at < TURN_WITHIN else None

    def _wait_for_lock(self, timeout: float | None) -> bool:
        """Wait for a change by the thread that drives; returns whether this one has the lock."""
        if self._background is not None and self._driver == self._background.ident:
            self._claims += 1
            self.wake()
        with self._changed:
            self.waiters += 1
            locked = self.lock.acquire(blocking=False)
            if not locked:
                self._changed.wait(0.05 if timeout is None else min(timeout, 0.05))
            self.waiters -= 1
        return locked

    def _leave(self) -> None:
        self._driver = 0
        self.left_at = time.monotonic()
        long = self.left_at - self._since > _LONG / 2
        self.lock.release()
        if self.waiters:
            self.tell_waiters()
        if long:
            self._resume.set()

    def tell_waiters(self) -> None:
        """Wake the threads that wait while another one drives."""
        with self.signals_deferred, self._changed:
            self._changed.notify_all()

    @property
    def driving(self) -> bool:
        """Whether this thread drives."""
        return self._driver == threading.get_ident()

    def call(self, function: Callable[[], T]) -> T:
        """The value of ``function()``, called in the driving thread; from any thread."""
        if self._driver == threading.get_ident():
            return function()
        done: list[T] = []
        failed: list[BaseException] = []

        def order() -> None:
            try:
                done.append(function())
            except BaseException as exc:  # noqa: BLE001 - raised in the thread that called this
                failed.append(exc)

        self.soon(order)
        self.until(lambda: done or failed)
        if failed:
            raise failed[0]
        return done[0] if done else function()

    def now(self, call: Callable[[], None]) -> None:
        """Call a function at once if no thread drives; otherwise in the driving thread."""
        with self.signals_deferred:
            if self.lock.acquire(blocking=False):
                self._since, self._driver = time.monotonic(), threading.get_ident()
                try:
                    call()
                    for turned in self.turned:
                        turned()
                finally:
                    self._leave()
            elif self._driver == threading.get_ident():
                call()
            else:
                self.soon(call)

    def quick(self, call: Callable[[], None]) -> None:
        """Like `now`, for a function that is quick and calls no user code.

        It runs after everything that was ordered before, with this method or with `soon`.
        """
        behind = False
        with self.signals_deferred:
            if self._driver != threading.get_ident() and self.lock.acquire(blocking=False):
                try:
                    behind = bool(self.orders)
                    if behind:
                        self.orders.append(call)
                    else:
                        call()
                finally:
                    self.lock.release()
                if self.waiters:
                    self.tell_waiters()
            elif self._driver == threading.get_ident() and not self.orders:
                call()
            else:
                self.soon(call)
        if behind:
            self.nudge()

    def nudge(self, within: float = 0.0) -> None:
        """Start what was just ordered: by a turn here, or by waking the driving thread.

        If the background thread drives, it is given ``within`` seconds to let this thread drive:
        while this thread works, the other would wait for the interpreter lock at every step.
        """
        with self.signals_deferred:
            if self.lock.acquire(blocking=False) or self._relieves(within):
                self._since, self._driver = time.monotonic(), threading.get_ident()
                try:
                    self._take_in(*self._wait(0))
                finally:
                    self._leave()

    def _relieves(self, within: float) -> bool:
        """Tell the driving thread that there is work; returns whether this thread now drives."""
        driver = self._driver
        if driver == threading.get_ident():
            return False
        self.nudged = True
        background = self._background is not None and driver == self._background.ident
        if background:
            self._claims += 1
        if self._sleeping:
            self.wake()
        return background and within > 0 and self.lock.acquire(timeout=within)

    # The thread in the background

    def start(self) -> None:
        """Start the background thread."""
        self._background = threading.Thread(target=self._run, name="encamp-pump", daemon=True)
        self._background.start()

    def _run(self) -> None:
        passed = 0
        while not (self._closed or self.last):
            if self.passed != passed:  # another thread handles messages without turns
                passed, self.left_at = self.passed, time.monotonic()
            if self._driver:
                if time.monotonic() - self._since > _LONG:
                    self._resume.wait(_AT_LEAST)
                    self._resume.clear()
                else:
                    time.sleep(_NAP)
            elif time.monotonic() - self.left_at < _LINGER:
                time.sleep(_NAP)
            elif self.lock.acquire(timeout=_LONG):
                self._in_background()
        if self.last is not None and not self._closed:
            self.last()

    def _in_background(self) -> None:
        self._driver = threading.get_ident()
        try:
            while not (self._claims or self._closed or self.last):
                self.turn(None)
        except Exception as exc:
            if self.broken is None:
                raise
            self.broken(exc)
        finally:
            self._claims = 0
            self._driver = 0
            self.left_at = time.monotonic()
            self.lock.release()
        if self.waiters:
            self.tell_waiters()

    def forked(self) -> None:
        """In a forked process: release nothing that the parent uses, and never wait again."""
        self._closed = True
        self.resting.clear()
        self._wake.close()
        self.lock, self._changed = threading.Lock(), threading.Condition()
        self._driver = self._since = 0
        self.elsewhere = True

    def close(self) -> None:
        """End the background thread, and release everything; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self.wake()
        self._resume.set()
        if self._background is not None and self._background is not threading.current_thread():
            self._background.join()
        if self._driver != threading.get_ident():
            self.lock.acquire()  # never released, so that no thread drives again
        with self._changed:
            self._changed.notify_all()
        self._poll.close()
        self._wake.close()
