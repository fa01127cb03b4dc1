"""Ending processes together with all their descendants."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from encamp.timeouts import KILLED

if TYPE_CHECKING:
    import psutil

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 100
"""Maximum number of searches for more processes: a fork bomb starts some while others are ended."""
_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
_waitid = ctypes.PyDLL(None).waitid


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, see prctl(2).

    A command that puts itself into the background can then still be found and ended.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_HELPERS = (
    ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ("loky.backend.resource_tracker", "_resource_tracker", "_pid"),
    ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker", "_pid"),
)
"""Where libraries keep the process ids of their helpers, which do nothing by themselves."""


supervised: set[int] = set()
"""The process ids of slots that this process supervises. They end when it ends."""


def supervised_slots() -> list[psutil.Process]:
    """The processes of those in `supervised`."""
    if not supervised:
        return []
    import psutil

    found = []
    for pid in supervised:
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def helpers() -> set[int]:
    """The process ids of libraries' helpers (resource trackers, fork servers) of this process.

    They end when it ends.
    """
    found = set()
    for module, name, attribute in _HELPERS:
        if module in sys.modules:
            pid = getattr(getattr(sys.modules[module], name, None), attribute, None)
            if isinstance(pid, int):
                found.add(pid)
    return found


def end_descendants(
    grace: float,
    pid: int | None = None,
    except_for: Iterable[psutil.Process] = (),
    spare: Container[int] = (),
) -> bool:
    """End all processes that descend from ``pid`` (default: this one), but not ``pid`` itself.

    They get SIGTERM, and SIGKILL after ``grace`` seconds; what they start in this time gets SIGKILL
    at once. Blocks until they have ended. ``except_for`` are processes that are left running with
    their descendants, ``spare`` are process ids that are left running without them. Returns whether
    a module of this process may try to continue using one that was ended.
    """
    if pid is not None:
        return bool(_end_all(lambda: _descendants(pid), grace))
    if not have_children():
        return False
    lasting = {process.pid for process in except_for}

    def others() -> list[int]:
        return [child for child in _children() if child not in lasting and child not in spare]

    def find() -> list[psutil.Process]:
        return [process for process in _descendants(None, except_for) if process.pid not in spare]

    children = others()
    ended = _end_all(find, grace) if spare or children else {}
    for child in others():
        with suppress(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    return bool(ended) and _may_still_be_used(ended, children)


def _may_still_be_used(programs: dict[int, str], children: list[int]) -> bool:
    """Whether a module may try to use one of these processes, given their programs by number.

    A Python process may be a worker of a pool. Any other is used by its number, or as the child
    that a `Popen` object stands for, unless that object was dropped.
    """
    if _program(os.getpid()) in programs.values():
        return True
    subprocess = sys.modules.get("subprocess")
    left = {process.pid for process in getattr(subprocess, "_active", None) or ()}
    return any(child in programs and child not in left for child in children)


def _program(pid: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/exe").readlink())
    return ""


def descendants() -> list[psutil.Process]:
    """The descendants of this process, including zombies."""
    return _find(None) if have_children() else []


def end_marked(name: str, value: str) -> None:
    """Kill all processes of this user that have ``name=value`` in their environment.

    In this way descendants of a process that has ended are found.
    """
    _end_all(lambda: _marked(name, value), 0)


def _end_all(find: Callable[[], list[psutil.Process]], grace: float) -> dict[int, str]:
    """End what ``find`` returns until it finds nothing; returns their programs by process id."""
    programs: dict[int, str] = {}
    for _ in range(_ROUNDS):
        found = find()
        if not found:
            break
        programs.update((process.pid, _program(process.pid)) for process in found)
        _end(found, grace)
        grace = 0
    return programs


def have_children() -> bool:
    """Whether this process has children. libc is faster than raising Python's exception."""
    return int(_waitid(os.P_ALL, 0, None, _ENDED)) == 0


def _children() -> set[int]:
    """The children of this process, including zombies."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended
            found.update(map(int, (thread / "children").read_bytes().split()))
    return found


def _descendants(
    pid: int | None, except_for: Iterable[psutil.Process] = ()
) -> list[psutil.Process]:
    found = _find(pid)
    for process in except_for:
        left_alone = {process, *_find(process.pid)}
        found = [one for one in found if one not in left_alone]
    return _living(found)


def _find(pid: int | None) -> list[psutil.Process]:
    import psutil

    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _marked(name: str, value: str) -> list[psutil.Process]:
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
    return _living(found)


def _living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes that still run, without zombies."""
    import psutil

    running = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def _end(processes: list[psutil.Process], grace: float) -> None:
    import psutil

    if grace > 0:
        for process in processes:
            with suppress(psutil.Error):
                process.terminate()
        processes = _wait(processes, grace)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    _wait(processes, KILLED)


def _wait(processes: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until they have ended; returns those that have not."""
    deadline, pause = time.monotonic() + timeout, 0.001
    while (processes := _living(processes)) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return processes
