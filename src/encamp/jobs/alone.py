"""One run of a job at a time, on all hosts: by a lock, or on a disk without locks by signs of life.

A record lock (fcntl(2)) goes with its process, also over a network disk, and a forked worker does
not inherit it. Where the disk has none, whoever makes the file `OWNER` first may run the job. Of
another run it is then asked whether it lives: by its process on the same host, by whether it still
touches its file from others.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from encamp.errors import BadDestination, JobBusy
from encamp.jobs.lease import Beats, leases
from encamp.storage.disk import disk_full
from encamp.storage.process import facts_from, this_process

OWNER = "lock.owner"
PATIENCE = 5 * Beats.EVERY
"""Seconds in which a run on another host must have touched its file once."""
_LOOK = 0.1

_open_here: set[Path] = set()
_entrance = threading.Lock()


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """What the disk refuses, by name."""
    try:
        yield
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        raise (disk_full(exc, folder, 1) or BadDestination(str(folder), why)) from exc


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Be the only run of the job in ``folder``; yields whether a lock keeps others out.

    Without locks it blocks for some seconds where a run on another host has left its files.
    Raises `JobBusy`, or `BadDestination` or `DiskFull` if the folder cannot be written.
    """
    real = folder.resolve()
    with _entrance:
        if real in _open_here:
            raise JobBusy(str(folder), "this process")
        _open_here.add(real)
    try:
        with refusals(folder):
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _locked(fd, folder):
                yield True
            else:
                with _owned(folder):
                    yield False
        finally:
            os.close(fd)
    finally:
        _open_here.discard(real)


def _locked(fd: int, folder: Path) -> bool:
    """Lock the file; False where the disk has no locks."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise JobBusy(str(folder), _owner(folder)) from None
    except OSError:
        return False
    return True


def _owner(folder: Path) -> str:
    for _, facts in leases(folder):
        if facts:
            return _who(facts)
    return "another process"


def _who(facts: object) -> str:
    owner = facts_from(facts)
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}"


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    for file, facts in leases(folder):
        _check_dead(folder, file, facts)
    file = folder / OWNER
    with refusals(folder):
        while not _made(file):
            _check_dead(folder, file, _read(file))
            _set_aside(folder, file)
    with Beats(file):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _made(file: Path) -> bool:
    """Make the file, unless there is one."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w") as writer:
        writer.write(json.dumps(this_process().as_dict()))
    return True


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _check_dead(folder: Path, file: Path, facts: object) -> None:
    """Raise `JobBusy` if the run that has made the file can be seen to live."""
    owner = facts_from(facts)
    if owner is not None and (owner.near or owner.known_dead):
        lives = not owner.known_dead
    else:
        lives = _beats(file)
    if lives:
        raise JobBusy(str(folder), _who(facts))


def _beats(file: Path) -> bool:
    """Whether a file is touched while we wait; opened each time, so that the disk is asked."""
    first = _touched(file)
    end = time.monotonic() + PATIENCE
    while first is not None and time.monotonic() < end:
        time.sleep(_LOOK)
        if (now := _touched(file)) != first:
            return now is not None
    return False


def _touched(file: Path) -> int | None:
    try:
        with file.open("rb") as reader:
            return os.fstat(reader.fileno()).st_mtime_ns
    except OSError:
        return None


def _set_aside(folder: Path, file: Path) -> None:
    """Remove the file of a dead run, but never that of another which has just begun."""
    judged = _touched(file)
    aside = file.with_name(f"{OWNER}.{token_hex(6)}")
    with suppress(FileNotFoundError):
        file.rename(aside)
        if _touched(aside) != judged:
            with suppress(OSError):
                os.link(aside, file)
            aside.unlink()
            raise JobBusy(str(folder), _who(_read(file)))
        aside.unlink()
