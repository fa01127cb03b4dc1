"""Waiting for the end of a process together with other descriptors, and ending that process."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_LOOK = 0.02
"""Seconds between checks of a process that is not a child, if the kernel cannot report its end."""


class Sentinel:
    """A descriptor that becomes readable when a process has ended, pidfd_open(2).

    If that is refused, as in some containers, or does not exist in this Python or kernel, a thread
    waits for the process. Raises ProcessLookupError if there is no such process.
    """

    def __init__(self, pid: int) -> None:
        self._process: psutil.Process | None = None
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except (OSError, AttributeError):
            self._fd = self._watched(pid)

    def _watched(self, pid: int) -> int:
        import psutil

        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise ProcessLookupError(pid) from None
        fd, write_end = os.pipe2(os.O_CLOEXEC)
        watch = threading.Thread(target=_watch, args=(self._process, write_end), daemon=True)
        watch.start()
        return fd

    def fileno(self) -> int:
        """The descriptor to wait for; -1 if it is closed."""
        return self._fd

    def kill(self) -> None:
        """Send SIGKILL, never to another process; does nothing if it has ended."""
        if self._process is not None:
            import psutil

            with suppress(psutil.Error):
                self._process.kill()
        else:
            with suppress(OSError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _watch(process: psutil.Process, write_end: int) -> None:
    """Wait for a process without taking its exit status, and write a byte then."""
    import psutil

    try:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(psutil.Error):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK)
        with suppress(OSError):
            os.write(write_end, b"\0")
    finally:
        os.close(write_end)
