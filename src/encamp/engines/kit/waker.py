"""Waking a thread that waits for descriptors."""

from __future__ import annotations

import os
from contextlib import suppress


class Waker:
    """A descriptor that other threads make readable.

    A pipe, because not every container and every build of Python has eventfd(2).
    """

    def __init__(self) -> None:
        self._fd, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._fd

    def wake(self) -> None:
        """Make the descriptor readable; from any thread and any handler of a signal."""
        with suppress(BlockingIOError):  # it is full, so it is readable already
            os.write(self._write_end, b"\0")

    def rest(self) -> None:
        """Undo `wake`: the descriptor is no longer readable."""
        with suppress(BlockingIOError):
            os.read(self._fd, 4096)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._write_end)
            self._fd = self._write_end = -1
