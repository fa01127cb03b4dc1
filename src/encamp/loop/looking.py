"""Polling before a sleep, since waking a process takes longer than most answers.

It polls only after a short wait, and only while other processes leave the core free, so that long
waits cost nothing and a busy machine loses nothing.
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
PAUSE_GROWS, MOST_PAUSE = 4, 64
"""How many times as long as a look in vain there is none: 1, then 4, 16 and 64 if more follow."""


class Looking:
    """Polling for one thread at a time."""

    def __init__(self) -> None:
        self._soon = False
        """Whether the last wait was a short one."""
        self._not_before = 0.0
        """When a look may be worth while again."""
        self._pause = 1
        """How long that is after a look in vain; halved by each that finds something."""

    def wait(self, look: Callable[[], T], sleep: Callable[[], T]) -> T:
        """Poll ``look`` for a moment if the last wait was short, otherwise ``sleep``."""
        begun = time.perf_counter()
        found = (self.look(look) if self._soon else None) or sleep()
        self._soon = time.perf_counter() - begun < SOON
        return found

    def look(self, look: Callable[[], T]) -> T | None:
        """The result of ``look`` within a moment, or None; it pauses after a failure.

        If other processes want the core, they get it for milliseconds after the first look: a
        process that has slept gets it back sooner, as the kernel favours those that did not use up
        their time.
        """
        begun = now = time.perf_counter()
        if begun < self._not_before:
            return None
        while now - begun < LOOK_ON:
            if found := look():
                self._pause = self._pause // 2 or 1
                return found
            os.sched_yield()  # to those that may have the answer
            now = time.perf_counter()
        self._not_before = now + self._pause * (now - begun)
        self._pause = min(PAUSE_GROWS * self._pause, MOST_PAUSE)
        return None
