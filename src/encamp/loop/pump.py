"""The pump: an event loop that is driven by whichever thread waits.

A thread that waits for a result or a message drives the loop itself, so that received data does not
have to be passed between threads. While no thread waits, a background thread drives it. Handlers
run in the driving thread, one at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from encamp.loop.event_loop import EventLoop, Events

T = TypeVar("T")

_LINGER = 0.002
"""For this many seconds after a wait, a thread is expected to wait again."""
_NAP = 0.001
_LONG = 0.02
"""After a wait of this many seconds, no thread is expected to wait again soon."""
_AT_LEAST = 60.0
"""Maximum number of seconds that the background thread sleeps."""


class Pump(EventLoop):
    """An event loop that is driven by whichever thread waits.

    `until` waits. `call` and `call_now_or_soon` have a function called by the driving thread: the
    first waits for it, the second does not. `nudge` starts what was given to `call_soon`. They are
    for any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        """Held by the thread that drives."""
        self._driver = 0
        self._since = 0.0
        """When the driver began; set before ``_driver``, because other threads read both."""
        self._claims = 0
        """How many threads ask the background thread to let them drive."""
        self.left_at = 0.0
        self._changed = threading.Condition()
        self.waiters = 0
        """Number of threads that wait while another one drives."""
        self._resume = threading.Event()
        self._background: threading.Thread | None = None
        self._closed = False
        self._last: Callable[[], None] | None = None
        """The background thread calls this and ends."""
        self.elsewhere = False
        """Whether this process was forked from the one that the pump belongs to."""

    def _handle_events(self, events: Events, waited: bool) -> None:
        super()._handle_events(events, waited)
        if self.waiters:
            self.wake_waiters()

    # Who drives

    def until(self, done: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until ``done()`` is true; until then this thread drives if no other one does.

        ``done`` is not called again once it was true, so it may have an effect then. Returns False
        on timeout. Raises the error of a handler if there is no ``broken``.
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
                    self._handle_events(*self._wait(left))
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
            if self._endpoints:
                arrived = self.spun()
                if done():  # even if nothing arrived: ``done`` may wait for something to be sent
                    return True
                if arrived:
                    left = 0.0  # more may have arrived
            self._handle_events(*self._wait(left, poll_first=True))
        return True

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
        self.left_at = now = time.monotonic()
        self._release(now)

    def _release(self, now: float) -> None:
        """Let others drive; if this thread drove for long, the background thread must be woken."""
        self._driver = 0
        long = now - self._since > _LONG / 2
        self.lock.release()
        if self.waiters:
            self.wake_waiters()
        if long:
            self._resume.set()

    def wake_waiters(self) -> None:
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

        def called() -> None:
            try:
                done.append(function())
            except BaseException as exc:  # noqa: BLE001 - raised in the thread that called this
                failed.append(exc)

        self.call_soon(called)
        self.until(lambda: done or failed)
        if failed:
            raise failed[0]
        return done[0] if done else function()

    def call_now_or_soon(self, call: Callable[[], None]) -> None:
        """Have the driving thread call a function, after those that are due already; does not wait.

        It is called at once if this thread drives, or none does.
        """
        behind = False
        with self.signals_deferred:
            me = threading.get_ident()
            if self._driver == me and not self.calls_due:
                call()
            elif self._driver != me and self.lock.acquire(blocking=False):
                self._since, self._driver = time.monotonic(), me
                try:
                    behind = bool(self.calls_due)
                    if behind:
                        self.calls_due.append(call)
                    else:
                        call()
                        self._send_if_due()
                finally:
                    # `left_at` stays: this thread might not call again soon
                    self._release(time.monotonic())
            else:
                self.call_soon(call)
        if behind:
            self.nudge()

    def _send_if_due(self) -> None:
        if any(due() for due in self.due):
            for call in self.at_turn_end:
                call()

    def nudge(self, within: float = 0.0) -> None:
        """Start what is due: by a turn here, or by waking the driving thread.

        If the background thread drives, it is given ``within`` seconds to let this thread drive:
        while this thread works, the other would wait for the interpreter lock at every step.
        """
        with self.signals_deferred:
            if self.lock.acquire(blocking=False) or self._relieves(within):
                self._since, self._driver = time.monotonic(), threading.get_ident()
                try:
                    self._handle_events(*self._wait(0))
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
        while not (self._closed or self._last):
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
        if self._last is not None and not self._closed:
            self._last()

    def _in_background(self) -> None:
        self._driver = threading.get_ident()
        try:
            while not (self._claims or self._closed or self._last):
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
            self.wake_waiters()

    def end_with(self, last: Callable[[], None]) -> None:
        """Have the background thread call a function and end; from any thread, without a lock."""
        self._last = last
        self.wake()

    def forked(self) -> None:
        """In a forked process: release nothing that the parent uses, and never wait again."""
        self._closed = True
        self.resting.clear()
        self._wake.close()
        self.lock, self._changed = threading.Lock(), threading.Condition()
        self._driver = self._since = 0
        self.elsewhere = True

    def close(self) -> None:
        """End the background thread, and release everything. Idempotent."""
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
        super().close()
