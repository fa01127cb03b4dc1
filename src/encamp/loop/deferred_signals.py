"""Signals that are deferred while something must not be interrupted."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own functions are slow
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_HELD = tuple(
    int(getattr(signal, f"SIG{name}"))
    for name in ["INT", "HUP", "QUIT", "TERM", "ALRM", "VTALRM", "PROF", "USR1", "USR2", "XCPU"]
)
_INT = int(signal.SIGINT)
_SLOTS_OWN = _INT, int(signal.SIGTERM)
_TASKS = tuple(number for number in _HELD if number not in _SLOTS_OWN)
_main_thread = threading.main_thread().ident
_getsignal, _set, _thread = _signal.getsignal, _signal.signal, threading.get_ident


def _nothing() -> None:
    pass


class DeferredSignals:
    """A context manager in which no signal handler of the program runs in the main thread.

    Handlers may raise, as those of time limits do, and would interrupt code that must run as a
    whole. They are called in `check` or at the end of the context; that of a second Ctrl-C at once.
    ``wake`` is called when a signal arrives. Reentrant; does nothing in other threads.
    """

    def __init__(self, wake: Callable[[], None] = _nothing) -> None:
        self._wake = wake
        self._depth = 0
        self._handlers: dict[int, Any] = {}
        self.caught: dict[int, tuple[Any, Any]] = {}
        """By signal: its handler and the frame that it has interrupted."""
        self._noting = self._note

    def __enter__(self) -> None:
        if _thread() != _main_thread:
            return
        if self._depth == 0:
            handlers = {}
            for number in _HELD:
                if callable(handler := _getsignal(number)):
                    handlers[number] = handler
            self._handlers = handlers
            try:
                for number in handlers:
                    _set(number, self._noting)
            except BaseException:  # by a handler that was not replaced yet
                self._give_back()
                raise
        self._depth += 1  # last, so that an interrupted call has no effect

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            if _getsignal(number) is self._noting:  # it may have been changed in the meantime
                _set(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if number == _INT:
            self._hand_over(number)
        self.caught[number] = self._handlers[number], frame
        self._wake()

    def check(self) -> None:
        """Handle deferred signals now, unless this is nested; may raise."""
        if self.caught and self._depth == 1 and threading.get_ident() == _main_thread:
            self._hand_over(*self.caught)

    def _hand_over(self, *numbers: int) -> None:
        """Call the first waiting handler of these; another signal's handler may call them, too."""
        for number in numbers:
            if (waiting := self.caught.pop(number, None)) is not None:
                handler, frame = waiting
                handler(number, frame)
                return

    def __exit__(self, *exc: object) -> None:
        if _thread() != _main_thread:
            return
        self._depth -= 1
        if self._depth == 0:
            try:  # as in `_give_back`; a function call would take noticeably longer
                for number, handler in self._handlers.items():
                    if _getsignal(number) is self._noting:
                        _set(number, handler)
            except BaseException:  # by a handler that is restored already
                self._give_back()
                raise
            finally:
                if self.caught:
                    self._hand_over_all()

    def _hand_over_all(self) -> None:
        """Call all waiting handlers, even if one of them raises."""
        while self.caught:
            try:
                self._hand_over(*self.caught)
            finally:
                self._hand_over_all()


of_task = DeferredSignals()
"""Defers signals while a task sends or receives."""
_not_at_all = nullcontext()


def if_task_has_any(deferred: DeferredSignals = of_task) -> AbstractContextManager[None]:
    """``deferred`` if this slot's task has installed handlers, otherwise a context without effect.

    Looking for handlers takes less time than replacing them.
    """
    return deferred if any(map(callable, map(_getsignal, _TASKS))) else _not_at_all
