"""CPU time and memory of an attempt, measured by its supervisor: a dead slot cannot report them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PAUSE = 1.0
"""Maximum number of seconds between measurements."""
_TICKS = os.sysconf("SC_CLK_TCK")


class ResourceUsage:
    """CPU time and memory of a slot and its descendants since `begin`; see proc(5)."""

    def __init__(self) -> None:
        self._pid = 0
        self._before = 0.0
        self._begun = self._next = time.monotonic()
        self.cpu_seconds = 0.0
        self.peak_memory = 0
        """Bytes."""

    def begin(self, pid: int, before: float) -> None:
        """Count what the process ``pid`` uses in addition to the CPU seconds ``before``."""
        self._pid, self._before = pid, before

    def look_again(self) -> None:
        """`look`, unless the last time was recent compared with the run time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + min(_PAUSE, (now - self._begun) / 10)
            self.look()

    def look(self) -> None:
        """Measure the usage so far. What is used between the last call and a death is lost."""
        if not self._pid:
            return
        family = list(_family(self._pid))
        used = sum(map(_cpu_seconds, family)) - self._before
        self.cpu_seconds = max(self.cpu_seconds, used)
        self.peak_memory = max(self.peak_memory, *map(_peak_memory, family), 0)


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    with suppress(OSError):  # the process has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_bytes().split():
                yield from _family(int(child))


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process, and of its children that it has waited for."""
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS
    return 0.0


def _peak_memory(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    return 0
