"""The lease of a run: workers check whether their controller still wants their results.

While a job runs, its folder has a lease file. The controller removes it when the run ends, and a
later run removes that of a killed one. If the run is stopped, the file is renamed, and removed once
no files of the run are left at the destination; if it is still there, a later run removes these
files. A worker that has seen the file and finds it removed stops its task, because its result would
not be published. A worker on the controller's own host also stops its task when the controller's
process has ended.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from encamp.errors import BadDestination, NotOurs, UnusableInput
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.temporary_names import is_token
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder
from encamp.storage.process_identity import MOST_FACTS, ProcessFacts, facts_in, this_process
from encamp.storage.shared_folders import Portable, below, local

PREFIX = "running-"
_STOPPED = "stopped-"
"""The beginning of the name of a lease that has ended, but whose run may have left files."""


class LeaseHeartbeat:
    """Touches a file while this process lives, for hosts that cannot see the process."""

    EVERY = 2.0
    """Seconds between two touches."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="encamp-heartbeat", daemon=True)

    def __enter__(self) -> LeaseHeartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self.EVERY):
            with suppress(OSError):
                os.utime(self._file, follow_symlinks=False)


class Lease(msgspec.Struct, frozen=True):
    """The lease of one run: its file, and its controller."""

    file: Portable
    controller: ProcessFacts

    def take(self, folder: TrustedFolder) -> int:
        """Begin the lease in the job's folder; returns the owner of files that are created there.

        Raises `NotOurs`, `BadDestination` or `DiskFull`.
        """
        file = local(self.file)
        try:
            with folder.opened() as files:
                return files.make(file.name, self.controller.as_bytes()).st_uid
        except OSError as exc:
            if not isinstance(exc, FileExistsError):
                self.end()  # an empty file may exist
            why = (exc.strerror or str(exc)).lower()
            raise (disk_full(exc, file, 1) or BadDestination(str(file), why)) from exc

    def end(self, *, untidy: bool = False) -> None:
        """End the lease. Idempotent. An ``untidy`` run may have left files."""
        file = local(self.file)
        if untidy:
            with suppress(OSError):
                file.rename(_stopped(file))
        with suppress(OSError):
            file.unlink(missing_ok=True)

    def swept(self) -> None:
        """Record that an untidy run has left nothing."""
        with suppress(OSError):
            _stopped(local(self.file)).unlink(missing_ok=True)


def new_lease(folder: Portable, token: str) -> Lease:
    """A lease for a run of the job in ``folder`` that this process controls."""
    return Lease(below(folder, f"{PREFIX}{token}"), this_process())


class LeaseWatch:
    """A worker's view of a lease."""

    def __init__(self, lease: Lease) -> None:
        self._controller = lease.controller
        self._file = _file_here(lease.file)
        self._near = lease.controller.near
        self._seen = False

    def over(self) -> bool:
        """Whether the run is known to have ended; False if nothing can be known."""
        if self._near and self._controller.known_dead:
            return True
        if self._file is None:
            return False
        try:
            there = self._file.exists()
        except OSError:
            there = False  # nothing else is known here
        # On the controller's host the file exists from the start; over a network it may be late.
        self._seen = self._seen or there or self._near
        return self._seen and not there


def _file_here(file: Portable) -> Path | None:
    """The lease on this host, which may not have its shared root."""
    try:
        return local(file)
    except UnusableInput:
        return None


def _stopped(lease: Path) -> Path:
    return lease.with_name(f"{_STOPPED}{token_of(lease)}")


def leases(folder: TrustedFolder) -> list[tuple[Path, ProcessFacts | None]]:
    """The lease files in a job's folder, with their contents; files of others do not count."""
    with suppress(OSError), folder.opened() as files:
        return [(folder.path / name, _facts(files, name)) for name in _names(files, PREFIX)]
    return []


def untidy_runs(folder: TrustedFolder) -> list[Path]:
    """The lease files of runs that were killed or stopped and may have left files."""
    with suppress(OSError), folder.opened() as files:
        return [folder.path / name for name in _names(files, PREFIX, _STOPPED)]
    return []


def token_of(lease: Path) -> str:
    """The token of a lease's run."""
    return lease.name.partition("-")[2]


def _names(files: TrustedFiles, *prefixes: str) -> list[str]:
    """Lease files whose names begin with this; files of others do not count."""
    return [
        name
        for name in files.names()
        if name.startswith(prefixes) and is_token(name.partition("-")[2]) and _ours(files, name)
    ]


def _ours(files: TrustedFiles, name: str) -> bool:
    with suppress(OSError, NotOurs):
        os.close(files.open(name))
        return True
    return False


def _facts(files: TrustedFiles, name: str) -> ProcessFacts | None:
    with suppress(OSError, NotOurs):
        return facts_in(files.read(name, MOST_FACTS))
    return None
