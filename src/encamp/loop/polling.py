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

POLL_FOR = 0.0005
"""Seconds to poll."""
SOON = 0.001
"""A wait of fewer seconds is short: the next one is expected to be short, too."""
PAUSE_GROWS, MOST_PAUSE = 4, 64
"""After polling in vain there is a pause, 1, 4, 16 and then 64 times as long as the polling."""


class Poller:
    """Polling before a sleep. For one thread at a time."""

    def __init__(self) -> None:
        self._soon = False
        """Whether the last wait was a short one."""
        self._not_before = 0.0
        """The end of the pause (`time.perf_counter`)."""
        self._pause = 1
        """Length of the next pause, in times of the polling; halved when polling succeeds."""

    def wait(self, look: Callable[[], T], sleep: Callable[[], T]) -> T:
        """The result of ``look``, polled if the last wait was short, or else of ``sleep``."""
        begun = time.perf_counter()
        found = (self.look(look) if self._soon else None) or sleep()
        self._soon = time.perf_counter() - begun < SOON
        return found

    def look(self, look: Callable[[], T]) -> T | None:
        """Poll ``look`` for `POLL_FOR` seconds; returns its first true result, or None.

        In the pause after polling in vain it returns None at once. If other processes want the
        core, they get it after the first look, for milliseconds. A process that sleeps instead
        gets it back sooner, because the kernel favours processes that do not use up their time.
        """
        begun = now = time.perf_counter()
        if begun < self._not_before:
            return None
        while now - begun < POLL_FOR:
            if found := look():
                self._pause = self._pause // 2 or 1
                return found
            os.sched_yield()  # lets processes run that may be about to answer
            now = time.perf_counter()
        self._not_before = now + self._pause * (now - begun)
        self._pause = min(PAUSE_GROWS * self._pause, MOST_PAUSE)
        return None
