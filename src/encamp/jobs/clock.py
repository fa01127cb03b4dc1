"""The time of day as one run counts it, unaffected by changes of the host's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from encamp.storage.process import boot_id


@dataclass(frozen=True)
class Clock:
    """The time at which the run began, in seconds since the epoch, and the time passed since."""

    began: float = field(default_factory=time.time)
    monotonic: float = field(default_factory=time.monotonic)
    boot: str = field(default_factory=boot_id)

    def now(self) -> float:
        """The time now, also in other processes of the run's host; elsewhere that host's time."""
        if self.boot != boot_id():
            return time.time()
        return self.began + time.monotonic() - self.monotonic
