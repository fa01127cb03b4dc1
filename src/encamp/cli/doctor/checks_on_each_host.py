"""The checks that run on each host, as a task: Python, libraries, disks, limits."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from encamp import control_groups, cores_and_memory
from encamp.cli.doctor.check_result import CheckResult, Level, why_of
from encamp.errors import EncampError, UnusableInput, printable
from encamp.storage.disk.disk_full import free_space
from encamp.storage.disk.disk_kind import kind_and_source
from encamp.storage.disk.tmp_cleaners import locked
from encamp.storage.local_storage import LOCAL, local_storage
from encamp.storage.outputs.sees_destination import reaches
from encamp.storage.owned_folder import OwnedFolder
from encamp.storage.placing.modes import why_no_overlay, why_no_reflink
from encamp.storage.shared_folders import MIRRORED, Portable, local
from encamp.units import counted, size_text
from encamp.version import __version__, same_minor

LIBRARIES = ("cloudpickle", "msgspec", "psutil", "wcmatch")
"""Libraries that slots need."""
_OTHERS = ("numpy",)
"""Libraries whose objects are sent between hosts."""
_ROOM = 1 << 30
"""Free bytes that a local storage should have."""
_FILES, _FEW_FILES = 1024, 256
_PROCESSES = 64
"""How many processes and threads a slot and what it starts may need."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - this is where it is
_SHARED_EACH = 32 << 20
_MOUNTS = (
    "kernel 5.11 or newer lets ordinary users mount overlays; "
    "in a container, allow user namespaces and mounts"
)
_IGNORE_LOCKS = ("tmpreaper", "tmpwatch")
_NETWORK = ("nfs", "fuse.sshfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "glusterfs",
            "fuse.glusterfs", "9p", "afs")  # fmt: skip
_TMP = ("/tmp", "/var/tmp")  # noqa: S108 - where cleaners work


@dataclass(frozen=True)
class ProgramFacts:
    """The facts of the program's host that other hosts compare with their own.

    ``beacon`` describes the beacon in ``folder``, see `sees_destination`; ``lock`` is a file in it
    whose lock the program holds, None if the disk has no locks.
    """

    python: str
    libraries: dict[str, str]
    folder: Portable
    shown: str
    beacon: str = ""
    lock: Portable | None = None
    slots: int = 1


@dataclass(frozen=True)
class HostReport:
    """The results of a host's checks; ``now`` is the time of its clock."""

    now: float
    lines: list[CheckResult] = field(default_factory=list)


def python_here() -> str:
    """Version and kind of this interpreter."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def libraries_here() -> dict[str, str]:
    """Versions of encamp and of libraries that must agree between hosts."""
    found = {"encamp": __version__}
    for name in (*LIBRARIES, *_OTHERS):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check(facts: ProgramFacts) -> HostReport:
    """Run all checks on this host."""
    found = HostReport(time.time())
    for checks in _CHECKS:
        try:
            found.lines.extend(checks(facts))
        except (OSError, EncampError, ValueError) as exc:
            what = checks.__name__.strip("_").replace("_", " ")
            found.lines.append(CheckResult("note", what, f"it could not be checked: {why_of(exc)}"))
    return found


def _python(facts: ProgramFacts) -> Iterator[CheckResult]:
    here = python_here()
    where = f"{here} ({sys.executable})"
    if not same_minor(here, facts.python):
        remedy = f"use the same Python on all hosts: {facts.python}"
        yield CheckResult(
            "fails", "Python", f"{where}, but the program runs {facts.python}", remedy
        )
    else:
        yield CheckResult("ok", "Python", where)


def _libraries(facts: ProgramFacts) -> Iterator[CheckResult]:
    here = libraries_here()
    wrong = {
        name: f"{name} {here.get(name, 'is missing')}, not {version}"
        for name, version in facts.libraries.items()
        if here.get(name) != version
    }
    if not wrong:
        text = ", ".join(f"{name} {version}" for name, version in here.items())
        yield CheckResult("ok", "libraries", text)
        return
    level: Level = "fails" if "encamp" in wrong else "note"
    names = " ".join(f"{name}=={facts.libraries[name]}" for name in wrong)
    yield CheckResult(level, "libraries", "; ".join(wrong.values()), f"pip install {names}")


def _slots(facts: ProgramFacts) -> Iterator[CheckResult]:
    cores = cores_and_memory.cores()
    text = (
        f"{counted(facts.slots, 'slot')}, {counted(cores, 'core')}, "
        f"{size_text(cores_and_memory.memory())} of memory"
    )
    if facts.slots > cores:
        yield CheckResult("note", "slots", text, "use no more slots than cores if tasks compute")
    else:
        yield CheckResult("ok", "slots", text)


def _local_storage(_: ProgramFacts) -> Iterator[CheckResult]:
    name = "local storage"
    elsewhere = f"set {LOCAL} on this host to a folder on its own disk"
    try:
        storage = local_storage()
        _write_there()
    except (EncampError, OSError) as exc:
        yield CheckResult("fails", name, why_of(exc), elsewhere)
        return
    kind, _source = kind_and_source(storage.stat().st_dev)
    free = free_space(storage)
    text = f"{printable(storage)} ({kind or 'disk of unknown kind'}), {size_text(free)} free"
    if kind.startswith(_NETWORK):
        yield CheckResult("note", name, f"{text}: this is a network disk", elsewhere)
    elif free < _ROOM:
        remedy = (
            f"free some space (encamp clean --all, which also empties the cache), or {elsewhere}"
        )
        yield CheckResult("note", name, text, remedy)
    else:
        yield CheckResult("ok", name, text)
    yield from _cleaners(storage)
    yield from _cheap_ways(storage)


def _write_there() -> None:
    owned = OwnedFolder("doctor")
    try:
        (owned.task / "written").write_bytes(bytes(1 << 16))
    finally:
        owned.remove()


def _cleaners(storage: Path) -> Iterator[CheckResult]:
    name = "cleaners"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    installed = [cleaner for cleaner in _IGNORE_LOCKS if shutil.which(cleaner, path=path)]
    fd = locked(storage, fcntl.LOCK_SH)
    if fd is not None:
        os.close(fd)
    if installed and any(storage.is_relative_to(folder) for folder in _TMP):
        remedy = f"exclude {printable(storage)} from it, or set {LOCAL}"
        yield CheckResult("note", name, f"{installed[0]} may remove files in use", remedy)
    elif fd is None:
        remedy = f"set {LOCAL} to a folder on a disk with locks (flock)"
        yield CheckResult(
            "note", name, "the disk has no locks, which would keep cleaners away", remedy
        )
    else:
        yield CheckResult("ok", name, "they skip this folder: it is locked while it is in use")


def _cheap_ways(storage: Path) -> Iterator[CheckResult]:
    """Check how big inputs get from the cache into a task's folder."""
    overlay, reflink = why_no_overlay(storage), why_no_reflink(storage)
    copied = "writable inputs are copied"
    for what, other, why, remedy in (
        ("overlay", "reflink", overlay, _MOUNTS),
        ("reflink", "overlay", reflink, f"put {LOCAL} on btrfs, or on xfs made with reflink=1"),
    ):
        if why is None:
            yield CheckResult("ok", what, "works here")
        elif overlay is not None and reflink is not None:
            yield CheckResult("note", what, f"{why}; {copied}", remedy)
        else:
            yield CheckResult("ok", what, f"not here ({why}); {other} is used instead")


def _shared_folders(facts: ProgramFacts) -> Iterator[CheckResult]:
    name = "shared folders"
    if not facts.beacon:
        return
    try:
        here = local(facts.folder)
    except UnusableInput as exc:
        here, why = None, f"{facts.shown} is in a folder that does not exist: {exc.why}"
    else:
        why = f"{printable(here)} is not {facts.shown} of the program's host"
    if here is not None and reaches(facts.folder, facts.beacon):
        yield CheckResult("ok", name, f"{facts.shown} is seen here as {printable(here)}")
        yield from _locks(facts)
        return
    remedy = (
        "encamp sends this host its files, which takes longer; if it has the disk, tell encamp "
        "where: "
        f"{MIRRORED} names the shared folders in the same order on every host"
    )
    yield CheckResult("note", name, why, remedy)


def _locks(facts: ProgramFacts) -> Iterator[CheckResult]:
    name = "locks"
    if facts.lock is None:
        return
    remedy = "run a job from one host at a time, or mount the disk with locks (NFS: without nolock)"
    fd = os.open(local(facts.lock), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        yield CheckResult("ok", name, "a lock that the program's host holds is visible here")
    except OSError as exc:
        yield CheckResult(
            "note", name, f"the disk has none: {(exc.strerror or str(exc)).lower()}", remedy
        )
    else:
        found = f"a lock that the program's host holds in {facts.shown} is not visible here"
        yield CheckResult("note", name, found, remedy)
    finally:
        os.close(fd)


def _open_files(_: ProgramFacts) -> Iterator[CheckResult]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "no limit" if hard == resource.RLIM_INFINITY else f"{hard} at most"
    text = f"{soft} at once, {most}"
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        yield CheckResult("fails", "open files", text, f"raise the limit: ulimit -Hn {_FILES}")
    elif soft != resource.RLIM_INFINITY and soft < _FILES:
        yield CheckResult("note", "open files", text, f"raise the limit: ulimit -n {_FILES}")
    else:
        yield CheckResult("ok", "open files", text)


def _processes(facts: ProgramFacts) -> Iterator[CheckResult]:
    left, need = _processes_left(), facts.slots * _PROCESSES
    if left is None:
        yield CheckResult("ok", "processes", "no limit")
        return
    text = f"{left} more processes and threads may be started"
    if left < need:
        remedy = (
            f"{counted(facts.slots, 'slot')} may need {need}: raise the limit (ulimit -u, "
            f"pids.max of the control group; in a container --pids-limit)"
        )
        yield CheckResult("note", "processes", text, remedy)
    else:
        yield CheckResult("ok", "processes", text)


def _processes_left() -> int | None:
    limits = [] if (left := control_groups.processes_left()) is None else [left]
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        limits.append(max(0, soft - _threads_of_user()))
    return min(limits, default=None)


def _threads_of_user() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
    return count


def _shared_memory(facts: ProgramFacts) -> Iterator[CheckResult]:
    name, need = str(_SHARED_MEMORY), facts.slots * _SHARED_EACH
    remedy = "MPI and multiprocessing need it: make it larger (in a container: --shm-size=1g)"
    if not os.access(_SHARED_MEMORY, os.W_OK):
        yield CheckResult("note", name, "does not exist or is not writable", remedy)
        return
    free = free_space(_SHARED_MEMORY)
    text = f"{size_text(free)} free"
    if free < need:
        text = f"{text}, and {counted(facts.slots, 'rank')} of MPI may need {size_text(need)}"
        yield CheckResult("note", name, text, remedy)
    else:
        yield CheckResult("ok", name, text)


_CHECKS: tuple[Callable[[ProgramFacts], Iterator[CheckResult]], ...] = (
    _python, _libraries, _slots, _local_storage, _shared_folders, _open_files, _processes,
    _shared_memory,
)  # fmt: skip
