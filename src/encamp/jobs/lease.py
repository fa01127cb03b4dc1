"""A run's right to go on: workers look whether their controller still stands behind them.

While a job runs, a file in its folder says so. The controller removes it when the run ends or is
stopped, and a later run of the job removes what a killed one left. A worker that has seen the file
and finds it gone, or that is on the controller's own host and finds its process gone, stops what
it runs: nobody would publish it.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encamp.storage.roots import Portable, local, portable

PREFIX = "running-"


@dataclass(frozen=True)
class Lease:
    """One run: its file, and who the controller is."""

    file: Portable
    host: str
    kernel: str
    pid: int
    started: str

    def take(self) -> None:
        """Say that the run goes on."""
        local(self.file).write_text(json.dumps({"host": self.host, "pid": self.pid}))

    def end(self) -> None:
        """Say that the run is over; may be called twice."""
        local(self.file).unlink(missing_ok=True)

    @property
    def controller(self) -> str:
        """The controller, for people."""
        return f"process {self.pid} on {self.host}"


def new_lease(folder: Path, token: str) -> Lease:
    """A lease for a run of the job in ``folder`` that this process controls."""
    pid = os.getpid()
    file = portable(folder / f"{PREFIX}{token}")
    return Lease(file, socket.gethostname(), kernel(), pid, start_of(pid) or "")


class Watch:
    """A worker's view of a lease."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._file = local(lease.file)
        self._near = lease.kernel != "" and (lease.host, lease.kernel) == (
            socket.gethostname(),
            kernel(),
        )
        self._seen = False

    def over(self) -> bool:
        """Whether the run is known to have ended; never true where nothing can be known."""
        if self._near and start_of(self._lease.pid) != self._lease.started:
            return True
        there = self._file.exists()
        # On the controller's host the file is there from the start; over a network it may be late.
        self._seen = self._seen or there or self._near
        return self._seen and not there


def kernel() -> str:
    """Names this boot of this host, and this container on it: where a process id means the same.

    Empty where the kernel does not say.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none, see proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def leases(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The lease files in a job's folder, with what they say."""
    found = []
    for file in sorted(folder.glob(f"{PREFIX}*")):
        try:
            found.append((file, json.loads(file.read_text())))
        except (OSError, ValueError):
            found.append((file, {}))
    return found
