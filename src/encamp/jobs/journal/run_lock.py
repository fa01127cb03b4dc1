"""One run of a job at a time, on all hosts: by a lock, or by heartbeats on a disk without locks.

A record lock (fcntl(2)) is dropped with its process, even over a network disk, and a forked worker
does not inherit it. On a disk without locks, the process that creates the file `OWNER` first may
run the job. Another run on the same host is alive if its process is; one on another host is alive
if it still touches its file.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from encamp.errors import BadDestination, DiskFull, JobBusy, printable
from encamp.jobs.run_lease import LeaseHeartbeat, leases
from encamp.storage.disk.disk_full import disk_full
from encamp.storage.disk.trusted_files import TrustedFiles, TrustedFolder
from encamp.storage.process_identity import MOST_FACTS, ProcessFacts, facts_in, this_process

OWNER = "lock.owner"
PATIENCE = 5 * LeaseHeartbeat.EVERY
"""A run on another host must touch its file at least once in this many seconds."""
_LOOK = 0.1

_open_here: set[Path] = set()
_entrance = threading.Lock()


def refusal(exc: OSError, folder: Path) -> DiskFull | BadDestination:
    """The error to raise if a job's folder, or a file in it, cannot be used."""
    place = folder / exc.filename if isinstance(exc.filename, str) else folder
    why = (exc.strerror or str(exc)).lower()
    return disk_full(exc, place, 1) or BadDestination(str(place), why)


@contextmanager
def run_lock(own: TrustedFolder, files: TrustedFiles) -> Iterator[bool]:
    """Ensure that this is the only run of the job in a folder; yields whether a lock ensures it.

    ``files`` are those of the folder. Without locks it blocks for some seconds if a run on another
    host has left its files. Raises `JobBusy`, `NotOurs`, or OSError if the folder cannot be
    written.
    """
    real = own.path.resolve()
    with _entrance:
        if real in _open_here:
            raise JobBusy(str(own.path), "this process")
        _open_here.add(real)
    try:
        fd = files.open("lock", os.O_RDWR | os.O_CREAT, 0o664 if own.shared else 0o644)
        try:
            if _locked(fd, own):
                yield True
            else:
                with _owned(own):
                    yield False
        finally:
            os.close(fd)
    finally:
        _open_here.discard(real)


def _locked(fd: int, folder: TrustedFolder) -> bool:
    """Lock the file; False if the disk has no locks."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise JobBusy(str(folder.path), _owner(folder)) from None
    except OSError:
        return False
    return True


def _owner(folder: TrustedFolder) -> str:
    return next((_who(facts) for _, facts in leases(folder) if facts), "another process")


def _who(owner: ProcessFacts | None) -> str:
    if owner is None:
        return "another process"
    return f"process {owner.pid} on {printable(owner.host)}"


@contextmanager
def _owned(folder: TrustedFolder) -> Iterator[None]:
    for file, facts in leases(folder):
        _check_dead(folder, file.name, facts)
    while not _made(folder, OWNER) and not _taken_over(folder):
        pass
    with LeaseHeartbeat(folder.path / OWNER):
        try:
            yield
        finally:
            with folder.opened() as files:
                files.remove(OWNER)


def _made(folder: TrustedFolder, name: str) -> bool:
    """Create a file that names this process, unless there is one."""
    with folder.opened() as files:
        try:
            files.make(name, this_process().as_bytes())
        except FileExistsError:
            return False
    return True


def _read(folder: TrustedFolder, name: str) -> ProcessFacts | None:
    with suppress(OSError), folder.opened() as files:
        return facts_in(files.read(name, MOST_FACTS))
    return None


def _check_dead(folder: TrustedFolder, name: str, owner: ProcessFacts | None) -> None:
    """Raise `JobBusy` if the run that created the file is alive."""
    if owner is not None and (owner.near or owner.known_dead):
        lives = not owner.known_dead
    else:
        lives = _beats(folder, name)
    if lives:
        raise JobBusy(str(folder.path), _who(owner))


def _beats(folder: TrustedFolder, name: str) -> bool:
    """Whether the file is touched while we wait; opened each time, so that the disk is asked."""
    first = _touched(folder, name)
    end = time.monotonic() + PATIENCE
    while first is not None and time.monotonic() < end:
        time.sleep(_LOOK)
        if (now := _touched(folder, name)) != first:
            return now is not None
    return False


def _touched(folder: TrustedFolder, name: str) -> int | None:
    try:
        with folder.opened() as files:
            fd = files.open(name)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


def _taken_over(folder: TrustedFolder) -> bool:
    """Replace the file of a dead run by our own; False if it has been replaced already.

    Of many runs that find the same dead run, only the one that creates the claim may replace its
    file, and only while the claim exists. If that run dies, another claim follows.
    """
    judged = _identity(folder)
    if judged is None:
        return False
    _check_dead(folder, OWNER, _read(folder, OWNER))
    claims = _claimed(folder, judged)
    with folder.opened() as files:
        try:
            if _identity(folder) != judged:
                return False
            with files.replacing(OWNER) as file:
                file.write(this_process().as_bytes())
        finally:
            for claim in claims:
                files.remove(claim)
    return True


def _claimed(folder: TrustedFolder, judged: str) -> list[str]:
    """Claim a dead run's file for this process; returns the claims, those of dead runs first."""
    claims = [f"{OWNER}.{judged}.0"]
    while not _made(folder, claims[-1]):
        _check_dead(folder, claims[-1], _read(folder, claims[-1]))
        claims.append(f"{OWNER}.{judged}.{len(claims)}")
    return claims


def _identity(folder: TrustedFolder) -> str | None:
    """Identifies an owner's file and its last touch."""
    with suppress(FileNotFoundError), folder.opened() as files:
        status = files.status(OWNER)
        state = (status.st_ino, status.st_mtime_ns, files.read(OWNER, MOST_FACTS))
        return sha256(repr(state).encode()).hexdigest()[:16]
    return None
