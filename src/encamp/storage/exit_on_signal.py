"""Turning signals that end a program into exceptions, so that open sandboxes are closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

_NAMES = "HUP", "QUIT", "TERM", "XCPU", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "POLL", "PWR"
ENDING = tuple(getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}"))
"""Signals that end a program by default, other than SIGINT and those of its own crashes.

A terminal sends SIGHUP when it is closed and SIGQUIT for Ctrl-\\; batch systems warn by SIGTERM,
SIGXCPU, SIGUSR1 or SIGUSR2, depending on their settings; `timeout` sends any signal.
"""
REAL_TIME = range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else range(0)
"""More signals that end a program. Only runs handle them: 31 handlers cost as much as a sandbox."""


class Terminated(SystemExit):
    """A signal has asked this process to end; the exit status is 128 + its number, as in shells."""

    def __init__(self, number: int = signal.SIGTERM, *, worker: bool = False) -> None:
        super().__init__(128 + number)
        self.number = number
        self.worker = worker
        """Whether this is a pool's worker, which would continue after an exception of a call."""


@contextmanager
def signals_exit() -> Iterator[None]:
    """Make every signal of `ENDING` raise `Terminated` in a block, so that ``finally`` blocks run.

    Only in the main thread, and only for signals that have no handler and are not ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = untaken()
    for number in taken:
        signal.signal(number, exit_on)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is exit_on:  # otherwise the block has set its own handler
                signal.signal(number, signal.SIG_DFL)


def exit_on(number: int, _frame: object) -> NoReturn:
    """The handler: raises `Terminated`."""
    raise Terminated(number)


def untaken(numbers: Iterable[int] = ENDING) -> list[int]:
    """The signals among ``numbers`` that would end this process at once."""
    default = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    caught = _caught_by_libraries()
    return [number for number in default if not caught >> (number - 1) & 1]


def _caught_by_libraries() -> int:
    """The signals with a handler, as bits; Python knows only its own (faulthandler has others)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("SigCgt:")[2].split(maxsplit=1)[0], 16)
    except (OSError, IndexError, ValueError):
        return 0
