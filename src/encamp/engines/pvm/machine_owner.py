"""The program that owns a virtual machine for another process: ``main(NAME, FOLDER)``.

It starts the PVM daemon, reports that, and halts the machine and removes its files when its
standard input ends, so that nothing remains even if the other process was killed. The environment
has the folder of the machine's files (``PVM_TMP``) and its name (``PVM_VMID``). ``FOLDER`` is
removed at the end, if one is named. A byte on its input before that means that all tasks have
ended. It imports as little of encamp as possible, to be a small process.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from encamp.timeouts import AGENT_ENDS, ENDS, MARGIN

_LOOK = 0.2
"""Seconds between checks whether the daemon has ended."""


def main(name: str, folder: str) -> int:
    """Run a machine; returns 1 if its daemon cannot be started, else 0 at the end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    daemon = _start(name)
    try:
        if not _forward_first_output(daemon):
            return 1
        while daemon.poll() is None and not select.select([0], [], [], _LOOK)[0]:
            pass
        if daemon.poll() is None and not os.read(0, 1):
            _wait_for_tasks(daemon)
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _finish(daemon)
        remove(daemon.pid, folder)


def _end(number: int, _: object) -> None:
    raise SystemExit(number)


def _start(name: str) -> subprocess.Popen[bytes]:
    command = ["pvmd", f"-n{name}"] if name else ["pvmd"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _forward_first_output(daemon: subprocess.Popen[bytes]) -> bool:
    """Forward the daemon's first output: its address, or why it does not start."""
    assert daemon.stdout is not None  # noqa: S101
    line = daemon.stdout.readline().strip()
    if line.startswith(b"/") or (line.count(b":") == 1 and b" " not in line):
        sys.stdout.write(f"ready {daemon.pid}\n")
        sys.stdout.flush()
        return True
    daemon.terminate()
    sys.stdout.write((line + b" " + daemon.stdout.read()).decode(errors="replace"))
    return False


def _wait_for_tasks(daemon: subprocess.Popen[bytes]) -> None:
    """Wait for the tasks of the dead process, which notice its death and end."""
    deadline = time.monotonic() + AGENT_ENDS
    while _children(daemon.pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _finish(daemon: subprocess.Popen[bytes]) -> None:
    """Halt the machine by a command, or by force if that fails."""
    if daemon.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            halt()
            daemon.wait(ENDS)
    left = _children(daemon.pid)
    for action in (daemon.terminate, daemon.kill):
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(MARGIN)
            break
        action()
    daemon.wait()
    for pid in left:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def halt() -> None:
    """Halt the machine by PVM's console.

    A call of libpvm, or a signal to the daemon, would also end this process as one of its tasks.
    """
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["pvm"], input=b"halt\n", capture_output=True, timeout=ENDS)


def _children(pid: int) -> list[int]:
    """The running processes that the daemon has started."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [int(child) for child in found]


def remove(pid: int, folder: str) -> None:
    """Remove the remaining files of a daemon's machine."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        return
    base, uid, name = Path(os.environ["PVM_TMP"]), os.getuid(), os.environ["PVM_VMID"]
    left = [base / f"pvmd.{uid}.{name}", base / f"pvml.{uid}.{name}"]
    for path in (*left, *base.glob(f"pvmtmp{pid:06}.*")):
        path.unlink(missing_ok=True)
