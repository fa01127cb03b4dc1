"""Making SIGTERM an orderly end, so that what is open is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Terminated(SystemExit):
    """SIGTERM has come."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)  # as a shell says it


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in this process, so that ``finally`` blocks run.

    Only in the main thread, and only where nobody else has taken the signal.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, exit_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def exit_on(_number: int, _frame: object) -> NoReturn:
    """A handler of SIGTERM."""
    raise Terminated
