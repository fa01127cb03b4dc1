"""Looking again and again before a sleep: to be woken takes longer than most answers.

Only after a wait that was short, so that what waits for long costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_ON = 0.0005
"""Seconds of looking."""
SOON = 0.001
"""Seconds of a wait after which another one may be as short."""


class Looking:
    """The waits of one thread at a time."""

    def __init__(self) -> None:
        self._soon = False
        """Whether the last wait was a short one."""

    def wait(self, look: Callable[[], list[T]], sleep: Callable[[], list[T]]) -> list[T]:
        """What ``look`` finds in a moment, or else ``sleep`` returns; the last wait permitting."""
        begun = time.perf_counter()
        found: list[T] = []
        while self._soon and not found and time.perf_counter() - begun < LOOK_ON:
            if not (found := look()):
                os.sched_yield()  # to those that may have the answer
        found = found or sleep()
        self._soon = time.perf_counter() - begun < SOON
        return found
