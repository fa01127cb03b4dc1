"""Logging in to many hosts through ssh, no faster than a server or a jump host allows.

Logins start one after the other, and refused ones are tried again. The reason: by default, sshd
refuses some connections while ten others have not authenticated yet (``MaxStartups 10:30:100``,
sshd_config(5)), and all hosts might be behind one jump host.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from encamp.timeouts import LOGS_IN_AGAIN

T = TypeVar("T")

AT_ONCE = 8
"""Logins that start together."""
_APART = 0.05
"""Seconds between two logins after that: most are authenticated by then."""
_PAUSE, _LONGEST = 0.3, 5.0
"""Seconds before the second try, and at most before later ones."""
_FAILED = 255
"""Exit status of ssh itself."""
_REFUSED = re.compile(
    r"(kex|ssh)_exchange_identification|Connection (closed|reset) by|Exceeded MaxStartups"
)
"""ssh's message if the server has closed the connection at once."""


def refused(code: int | None, errors: str) -> bool:
    """Whether a login was refused because there were too many at once, by ssh's messages."""
    return code == _FAILED and shut_out(errors)


def shut_out(output: str) -> bool:
    """Whether output contains such a message of ssh."""
    return bool(_REFUSED.search(output))


class LogIns:
    """Starts logins to many hosts one after the other. For any thread."""

    def __init__(self, within: float = LOGS_IN_AGAIN) -> None:
        self._lock = threading.Lock()
        self._next = time.monotonic() - AT_ONCE * _APART
        self._until = time.monotonic() + within
        self._ended = threading.Event()

    def end(self) -> None:
        """Stop waiting and retrying."""
        self._ended.set()

    def call(self, log_in: Callable[[], T], was_refused: Callable[[T], bool]) -> T:
        """The result of ``log_in()``, called in turn and again while it is refused; blocks."""
        pause = _PAUSE
        while True:
            self._wait_for_turn()
            found = log_in()
            left = self._until - time.monotonic()
            if left <= 0 or self._ended.is_set() or not was_refused(found):
                return found
            self._ended.wait(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311
            pause = min(2 * pause, _LONGEST)

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now - AT_ONCE * _APART)
            self._next = turn + _APART
        self._ended.wait(max(0.0, turn - now))
