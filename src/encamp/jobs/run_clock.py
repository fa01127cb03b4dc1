"""The time of day as one run counts it, unaffected by changes of the host's clock."""

from __future__ import annotations

import time

import msgspec

from encamp.storage.process_identity import boot_id


class Clock(msgspec.Struct, frozen=True):
    """The time at which the run began, in seconds since the epoch, and the time passed since."""

    began: float = msgspec.field(default_factory=time.time)
    monotonic: float = msgspec.field(default_factory=time.monotonic)
    boot: str = msgspec.field(default_factory=boot_id)

    def now(self) -> float:
        """The time now, the same in all processes of the run's host; elsewhere that host's time."""
        if self.boot != boot_id():
            return time.time()
        return self.began + time.monotonic() - self.monotonic
