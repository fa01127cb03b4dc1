"""Ctrl-C and other signals that end a program, deferred until a run can stop cleanly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from encamp.errors import EncampError
from encamp.short_tracebacks import brief_trace
from encamp.storage.exit_on_signal import ENDING, REAL_TIME, Terminated, exit_on, untaken

T = TypeVar("T")

_ENDING = *ENDING, *REAL_TIME
_FROM_KEYS = signal.SIGINT, signal.SIGQUIT
"""Signals that users send with keys: a second one is intentional."""
_REPEATED = signal.SIGHUP, signal.SIGXCPU
"""Signals that are repeated automatically: by the shell and the kernel, or every second."""
_ONE_REQUEST = 1.0
"""Signals within this many seconds are one request: `timeout` sends two, others several."""


def stopped(exc: KeyboardInterrupt, so_far: str = "") -> KeyboardInterrupt:
    """``exc`` with a message about an interrupted run; ``so_far`` describes what is done.

    There is no subclass, because Python ends itself by SIGINT only for exactly this class.
    """
    words = f"the run was stopped{f': {so_far}' if so_far else ''}; run it again to continue"
    exc.args = (words,)
    vars(exc)["_render_traceback_"] = partial(brief_trace, exc, "KeyboardInterrupt", words)
    return exc


class RunInterrupts:
    """A context manager that records signals instead of being interrupted by them.

    SIGINT, those of `ENDING` and real-time signals, only in the main thread, and only if the signal
    has its default handler. A second Ctrl-C interrupts at once, anywhere in the program; so does
    another signal that arrives a second later and is not of a kind that repeats itself. A recorded
    signal is raised at the end, even in place of an error of encamp, which it may have caused.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None
        """Called from the signal handler, to end a wait."""
        self._noted: BaseException | None = None
        self._noted_at = 0.0
        self._raised = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> RunInterrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _free():
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if exc is None or isinstance(exc, EncampError):
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt or `Terminated` once, if a signal has arrived."""
        if self._noted is not None and not self._raised:
            self._raised = True
            raise self._noted

    def _note(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:
            if number != signal.SIGINT:  # a terminal sends that to all, and the run handles it
                _end_worker(number)
            return
        error = stopped(KeyboardInterrupt()) if number == signal.SIGINT else Terminated(number)
        if self._noted is None:
            self._noted, self._noted_at = error, time.monotonic()
            self.wake()
        elif self._is_urgent(number):
            self._noted, self._raised = error, True
            raise error

    def _is_urgent(self, number: int) -> bool:
        if number in _FROM_KEYS:
            return True
        later = time.monotonic() - self._noted_at > _ONE_REQUEST
        return later and number not in _REPEATED


def ended_in_order(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)``; if this is a pool's worker and a signal ends it, after its cleanup."""
    if threading.current_thread() is not threading.main_thread():
        return function(*args)
    try:
        _Worker.clears_up = True
        return function(*args)
    except Terminated as exc:
        if exc.worker:
            _die_of(exc.number)
        raise
    finally:
        _Worker.clears_up = False


class _Worker:
    clears_up = False
    """Whether the main thread is in `ended_in_order`."""


def _end_worker(number: int) -> None:
    """End a worker that was forked during a run, and has inherited its parent's handlers.

    A broken pool sends SIGTERM to its workers, even to those that are cleaning up already, because
    the first signal reached all; and it waits until they have ended.
    """
    if not _Worker.clears_up:
        _die_of(number)
    for more in _ENDING:
        signal.signal(more, signal.SIG_IGN)
    raise Terminated(number, worker=True)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _free() -> list[int]:
    """Signals that end this process, or cleanly end a sandbox."""
    sandboxes = [number for number in ENDING if signal.getsignal(number) is exit_on]
    keyboard = _ends_what_runs(signal.getsignal(signal.SIGINT))
    return [*untaken(_ENDING), *sandboxes, *([signal.SIGINT] if keyboard else [])]


def _ends_what_runs(handler: object) -> bool:
    """Whether a handler of SIGINT is Python's, or a kernel's for cells that await something.

    The latter cancels the cell when its loop runs again, which it does not while a job runs.
    """
    module = getattr(handler, "__module__", None) or ""
    return handler is signal.default_int_handler or module.partition(".")[0] == "ipykernel"
