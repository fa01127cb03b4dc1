"""Ctrl-C and SIGTERM, held back until a run can stop in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from encamp.errors import EncampError
from encamp.storage.sigterm import Terminated, exit_on


class Interrupts:
    """A context manager that takes note of SIGINT and SIGTERM instead of being interrupted by them.

    Only in the main thread, and only where nobody else has taken the signal. The second signal
    interrupts at once, wherever the program is. One that was noted is raised at the end, also in
    place of an error of encamp's, which may have come of it.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None
        """Called from the signal handler, to end a wait."""
        self._noted: BaseException | None = None
        self._raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number, usual in (
                (signal.SIGINT, (signal.default_int_handler,)),
                (signal.SIGTERM, (signal.SIG_DFL, exit_on)),
            ):
                if signal.getsignal(number) in usual:
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
        """Raise KeyboardInterrupt or `Terminated` if a signal has come, once."""
        if self._noted is not None and not self._raised:
            self._raised = True
            raise self._noted

    def _note(self, number: int, _frame: object) -> None:
        again = self._noted is not None
        self._noted = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if again:
            self._raised = True
            raise self._noted
        self.wake()
