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
from encamp.loop.held_off import HeldOff
from encamp.loop.looking import Looking

T = TypeVar("T")

REST = 0.001
MANY = 32
"""With more calls than that ahead of each slot, results are awaited and taken in by the dozen."""
TURN_WITHIN = 0.02
PASSED = 200
"""Seconds of waiting since a turn in which what comes may go past the next one, and how many
messages, so that an exchange without a pause keeps nothing else waiting."""
_SPINS = 32
_LINGER = 0.002
"""Seconds after a thread's waiting in which it is expected to wait again."""
_NAP = 0.001
_LONG = 0.02
"""Seconds of waiting after which nobody is expected to come back soon."""
_AT_LEAST = 60.0
"""Seconds after which the thread in the background looks again, if it is told nothing."""
_FOREVER = 3600.0

Events = list[tuple[int, int]]
Ready = Callable[[int], object]
"""Is told which events there are. True says that there is nothing more to do in this turn."""


def by_signal(exc: Exception) -> bool:
    """Whether a signal's handler raised it, such as one for a time limit; no fault of this code.

    It is meant for the program, wherever that waits.
    """
    handlers = [_signal.getsignal(number) for number in signal.valid_signals()]
    codes = [getattr(handler, "__code__", None) for handler in handlers if callable(handler)]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(exc.__traceback__))


class Pump:
    """One event loop. The functions in ``turned`` are called at the end of each turn, to send.

    A turn in which only messages arrived, for this process, skips them, unless a function in
    ``due`` returns true: then there is something to send.
    """

    def __init__(self) -> None:
        self.turned: list[Callable[[], None]] = []
        self.due: list[Callable[[], object]] = []
        self.resting: list[Callable[[], None]] = []
        """Called before each look at descriptors, which may be a sleep."""
        self._poll = select.epoll()
        self._handlers: dict[int, Ready] = {}
        self._new: set[int] = set()
        """Descriptors that were taken in hand in this turn: what it has found is not of them."""
        self.rest = 0.0
        """Seconds to let things come before they are looked at, where many come one by one."""
        self.eager = False
        """Whether there is a core to spare for looking again and again before a sleep."""
        self._looking = Looking()
        self.broken: Callable[[Exception], None] | None = None
        """Is told what an engine or a handler raises; without it, whoever waits is."""
        self._ends: list[tuple[Endpoint, Callable[[Arrival], None]]] = []
        self.come: deque[tuple[Callable[[Any], None], Any]] = deque()
        """What has come and is not handled: a turn inside a handler goes on with it."""
        self.held_off = HeldOff(self.wake)
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
        """Whether something was handled that may have more to be sent, by ``turned``."""
        self._claims = 0
        self.left_at = 0.0
        self.turned_at = 0.0
        self.passed = 0
        """How many messages went past since the last turn."""
        self._since = 0.0
        self._changed = threading.Condition()
        self.waiters = 0
        self._resume = threading.Event()
        self._background: threading.Thread | None = None
        self._closed = False
        self.last: Callable[[], None] | None = None
        """Is called by the thread in the background, which ends with it."""
        self.elsewhere = False
        """Whether it is that of a process from which this one was forked."""

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
        """Pass what arrives at an engine's end to ``handle``."""
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
        self.come.extendleft(reversed([(handle, argument) for argument in arguments]))

    # One turn

    def turn(self, timeout: float | None) -> None:
        """Wait for something for at most ``timeout`` seconds, and handle all that is there."""
        events, waited = self._wait(timeout)
        with self.held_off:
            self._take_in(events, waited)

    def _wait(self, timeout: float | None, *, look_on: bool = False) -> tuple[Events, bool]:
        """The events that are there, or come in time; whether it waited for some.

        With ``look_on`` it may first poll for a moment.
        """
        if self.rest and timeout != 0:
            time.sleep(self.rest)
        for rest in self.resting:
            rest()
        limit = 0.0
        if timeout != 0 and not (self.orders or self.come or self._due):
            limit = self._patience(timeout)
        if limit > 0:
            self._sleeping = True
            if self.orders or self.nudged:  # before the flag could be seen
                limit = 0.0
        if limit > 0 and look_on and self.eager:
            poll = self._poll.poll
            events = self._looking.wait(partial(poll, 0, 256), partial(poll, limit, 256))
        else:
            events = self._poll.poll(limit, 256)
        self._sleeping = self.nudged = False
        return events, limit > 0

    def _take_in(self, events: Events, waited: bool) -> None:
        """Handle what has come, and all else that there is to do; while signals are held off."""
        handlers, new = self._handlers, self._new
        new.clear()
        all_done = waited and bool(events)
        try:
            for fd, event in events:
                handler = handlers.get(fd)
                if handler is not None and fd not in new and handler(event) is not True:
                    all_done = False
            if self.come:
                self._handle_come()
            if not all_done or self._more_to_do():
                self._rest_of_turn()
        except Exception as exc:  # noqa: BLE001 - whoever waits has nothing to do with it
            self._break(exc)
        if self.waiters:
            self.tell_waiters()

    def come_by_descriptors(self) -> bool:
        """Whether something has come; nothing is handled. For a thread that has the lock."""
        return bool(self._poll.poll(0, 1))

    def _break(self, exc: Exception) -> None:
        """Report an error of an engine or a handler; raises it if there is nobody to report to."""
        if self.broken is None or by_signal(exc):
            raise exc
        self.broken(exc)

    def _more_to_do(self) -> bool:
        """Whether a full turn is needed after messages for this process; sometimes it is anyway."""
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
        """Everything in a turn except descriptors."""
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
        if self.come:
            self._handle_come()
        self._due = False
        for turned in self.turned:
            turned()

    def _patience(self, timeout: float | None) -> float:
        """Seconds to wait at most."""
        limit = _FOREVER if timeout is None else timeout
        for end, _ in self._ends:
            patience = end.patience()
            if patience is not None and patience < limit:
                limit = patience
        if self._timers:
            limit = min(limit, self._timers[0][0] - time.monotonic())
        return max(limit, 0.0)  # a poll would take less for no limit

    def _arrivals(self) -> None:
        again = True
        while again:
            self._handle_come()
            again = False
            for end, handle in self._ends:
                arrivals = self._receive(end)
                if arrivals is None:
                    break
                for arrival in arrivals:
                    self.come.append((handle, arrival))
                self._handle_come()
                again = again or (bool(arrivals) and len(self._ends) > 1)

    def _receive(self, end: Endpoint) -> Sequence[Arrival] | None:
        """What has arrived at an end; None if its engine has failed."""
        try:
            return end.receive()
        except Exception as exc:  # noqa: BLE001 - an engine may be anybody's
            if not by_signal(exc):  # it would raise again and again
                self._ends = [(other, handle) for other, handle in self._ends if other is not end]
            self._break(exc)
            return None

    def _handle_come(self) -> None:
        come = self.come
        while come:
            handle, argument = come.popleft()
            handle(argument)

    # Who drives

    def until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until ``done()`` is true, driving meanwhile if no other thread does.

        ``done`` may have an effect when it becomes true: it is not called again then. False if the
        time is over. Raises the error of a handler if there is no ``broken``.
        """
        if done():
            return True
        me = threading.get_ident()
        if self._driver == me:  # what a handler asked for has not gone yet
            self._due = True
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.held_off:
            while True:
                if self.held_off.come:
                    self.held_off.check()
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or self._closed:
                    return bool(done())
                if self._driver == me:
                    self._take_in(*self._wait(left))
                elif self._take(left):
                    try:
                        return self._drive(done, deadline)
                    finally:
                        self._leave()
                if done():
                    return True

    def _drive(self, done: Callable[[], object], deadline: float | None) -> bool:
        while not done():
            if self.held_off.come:
                self.held_off.check()
            left = None if deadline is None else deadline - time.monotonic()
            if self._closed or (left is not None and left <= 0):
                return False
            if self._ends:
                came = self.spun()
                if done():  # also where nothing came: what was sent may have gone meanwhile
                    return True
                if came:
                    left = 0.0  # what has come may have more to follow
            self._take_in(*self._wait(left, look_on=True))
        return True

    def spun(self) -> bool:
        """Poll a busy engine alone some times, which is faster than a turn.

        Returns whether anything arrived; False also if polling is not worthwhile.
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
                with self.held_off:
                    for arrival in arrivals:
                        self.come.append((handle, arrival))
                    self._due = True
                    try:
                        self._handle_come()
                    except Exception as exc:  # noqa: BLE001 - as in `turn`
                        self._break(exc)
                return True
        return False

    def _only_end(self) -> Endpoint | None:
        """The end that may be polled without a turn; None if there is anything else to do.

        The background thread leaves that to this one for a while.
        """
        busy = self.rest or self.orders or self.come or self.nudged or self.passed > PASSED
        if busy or len(self._ends) != 1:
            return None
        self.left_at = now = time.monotonic()
        return self._ends[0][0] if now - self.turned_at < TURN_WITHIN else None

    def _take(self, timeout: float | None) -> bool:
        """Become the driver; False if another waiting thread is, and something has happened."""
        if not self.lock.acquire(blocking=False):
            if self._background is not None and self._driver == self._background.ident:
                self._claims += 1
                self.wake()
            with self._changed:
                self.waiters += 1
                if not self.lock.acquire(blocking=False):
                    self._changed.wait(0.05 if timeout is None else min(timeout, 0.05))
                    self.waiters -= 1
                    return False
                self.waiters -= 1
        self._claims = 0
        self._drive_from_now()
        return True

    def _drive_from_now(self) -> None:
        self._since = time.monotonic()  # first: who sees the driver must not take an older time
        self._driver = threading.get_ident()

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
        """Wake threads that wait for another thread's driving."""
        with self.held_off, self._changed:
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
            except BaseException as exc:  # noqa: BLE001 - it is raised where it was asked for
                failed.append(exc)

        self.soon(order)
        self.until(lambda: done or failed)
        if failed:
            raise failed[0]
        return done[0] if done else function()

    def now(self, call: Callable[[], None]) -> None:
        """Call a function at once if no thread drives; otherwise in the driving thread."""
        with self.held_off:
            if self.lock.acquire(blocking=False):
                self._drive_from_now()
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
        with self.held_off:
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

        The background thread is given ``within`` seconds to leave the loop to this one: while this
        thread works, the other would wait for the interpreter at each of its steps.
        """
        with self.held_off:
            if self.lock.acquire(blocking=False) or self._relieves(within):
                self._drive_from_now()
                try:
                    self._take_in(*self._wait(0))
                finally:
                    self._leave()

    def _relieves(self, within: float) -> bool:
        """Tell the driving thread that there is work; returns whether this thread takes over."""
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
            if self.passed != passed:  # somebody is at it, though not by turns
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
        """In a forked process: leave everything shared to the parent, and never wait."""
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
            self.lock.acquire()  # whoever drives leaves; it is kept, so that nobody drives again
        with self._changed:
            self._changed.notify_all()
        self._poll.close()
        self._wake.close()
