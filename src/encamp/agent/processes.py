"""Ending processes with everything that they started."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, see prctl(2).

    So a command that puts itself into the background can still be found and ended.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(grace: float, pid: int | None = None) -> None:
    """End all processes that descend from ``pid`` (default: this one), but not ``pid`` itself.

    They get SIGTERM, and SIGKILL after ``grace`` seconds. Blocks until they are gone.
    """
    if pid is None and not _have_children():
        return
    import psutil

    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for _ in range(100):  # a fork bomb may make new ones while the old are ended
            children = parent.children(recursive=True)
            if not children:
                return
            _end(children, grace)


def _have_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _end(processes: list[psutil.Process], grace: float) -> None:
    import psutil

    if grace > 0:
        for process in processes:
            with suppress(psutil.Error):
                process.terminate()
        _, processes = psutil.wait_procs(processes, timeout=grace)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=5)
