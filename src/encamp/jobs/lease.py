"""A run's right to go on: workers look whether their controller still stands behind them.

While a job runs, a file in its folder says so. The controller removes it when the run ends or is
stopped, and a later run of the job removes what a killed one left. A worker that has seen the file
and finds it gone, or that is on the controller's own host and finds its process gone, stops what
it runs: nobody would publish it.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encamp.errors import BadDestination, UnusableInput
from encamp.storage.disk import disk_full
from encamp.storage.process import ProcessFacts, this_process
from encamp.storage.roots import Portable, local, portable

PREFIX = "running-"


class Beats:
    """Touches a file as long as this process lives, for those who cannot see the process."""

    EVERY = 2.0
    """Seconds between two touches."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="encamp-beats", daemon=True)

    def __enter__(self) -> Beats:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self.EVERY):
            with suppress(OSError):
                os.utime(self._file)


@dataclass(frozen=True)
class Lease:
    """One run: its file, and who controls it."""

    file: Portable
    controller: ProcessFacts

    def take(self) -> None:
        """Say that the run goes on; raises `BadDestination` or `DiskFull`."""
        file = local(self.file)
        try:
            file.write_text(json.dumps(self.controller.as_dict()))
        except OSError as exc:
            with suppress(OSError):  # it may be there, with nothing in it
                file.unlink(missing_ok=True)
            why = (exc.strerror or str(exc)).lower()
            raise (disk_full(exc, file, 1) or BadDestination(str(file), why)) from exc

    def end(self) -> None:
        """Say that the run is over; may be called twice."""
        local(self.file).unlink(missing_ok=True)


def new_lease(folder: Path, token: str) -> Lease:
    """A lease for a run of the job in ``folder`` that this process controls."""
    return Lease(portable(folder / f"{PREFIX}{token}"), this_process())


class Watch:
    """A worker's view of a lease."""

    def __init__(self, lease: Lease) -> None:
        self._controller = lease.controller
        self._file = _file_here(lease.file)
        self._near = lease.controller.near
        self._seen = False

    def over(self) -> bool:
        """Whether the run is known to have ended; never true where nothing can be known."""
        if self._near and self._controller.known_dead:
            return True
        if self._file is None:
            return False
        try:
            there = self._file.exists()
        except OSError:
            there = False  # as far as can be known here
        # On the controller's host the file is there from the start; over a network it may be late.
        self._seen = self._seen or there or self._near
        return self._seen and not there


def _file_here(file: Portable) -> Path | None:
    """The lease on this host, which may not have its shared root."""
    try:
        return local(file)
    except UnusableInput:
        return None


def leases(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The lease files in a job's folder, with what they say."""
    found = []
    for file in sorted(folder.glob(f"{PREFIX}*")):
        try:
            found.append((file, json.loads(file.read_text())))
        except (OSError, ValueError):
            found.append((file, {}))
    return found
