"""Files that killed MPI jobs leave behind on a host, and how to recognize our own."""

from __future__ import annotations

import os
import re
import select
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from encamp.timeouts import ALL_START, GRACE, MARGIN

_SEGMENT = re.compile(r" /dev/shm/(mpich_shm_|sm_segment\.|vader_segment\.)\S+$", re.MULTILINE)
_TOPOLOGY = "/tmp/hydra_hwloc_xmlfile_"  # noqa: S108
_PROXY = "hydra_pmi_proxy"
_DAEMON = "prted"
"""Open MPI's process on each host; its folder is called by this name and its process id."""
_LOOK = 0.05
_MAPPED_WITHIN = 0.2
"""The creator of a segment maps it within this many seconds."""


def remove(paths: Iterable[str]) -> None:
    """Remove files and folders, if they exist."""
    for path in map(Path, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def remains_here(launcher: int = 0) -> list[str]:
    """The files that this rank's job would leave behind on its host if it were killed.

    These are segments of shared memory, which the kernel keeps without their processes, and the
    folder of Open MPI's ``launcher``.
    """
    found = set(segments_here())
    session = os.environ.get("PMIX_SERVER_TMPDIR", "")
    if session.endswith(f".{launcher}"):
        found.add(session)
    return sorted(found)


def segments_here(*, of: str = "") -> list[str]:
    """The segments of shared memory that this process has mapped, with ``of`` in their names."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    found = {line.split(None, 5)[5] for line in lines if _SEGMENT.search(line)}
    return sorted(path for path in found if of in path)


def topology_here() -> list[str]:
    """The file with hydra's description of the processor, which MPI has read by now.

    Hydra does not remove it when it is killed. Only its proxy knows the file's name.
    """
    fd = os.environ.get("PMI_FD", "")
    if os.environ.get("MPI_LOCALRANKID") != "0" or not fd.isdecimal():
        return []
    if not any(_new_files(Path(_TOPOLOGY))):
        return []  # this may be a launcher other than hydra
    store = _asked(int(fd), "cmd=get_my_kvsname").get("kvsname", "")
    path = _asked(int(fd), f"cmd=get kvsname={store} key=PMI_hwloc_xmlfile").get("value", "")
    return [path] if path.startswith(_TOPOLOGY) else []


def _asked(fd: int, line: str) -> dict[str, str]:
    """The process manager's answer to a line of the protocol PMI 1."""
    os.write(fd, f"{line}\n".encode())
    answer = b""
    while not answer.endswith(b"\n") and select.select([fd], [], [], GRACE)[0]:
        answer += os.read(fd, 4096) or b"\n"
    return dict(word.split("=", 1) for word in answer.decode().split() if "=" in word)


def clear() -> None:
    """Remove this user's files of MPI jobs that were ended while MPI started on this host.

    These are new files that no process has opened. (Older ones may belong to jobs in containers,
    whose processes are not visible here.)
    """
    segments = set(_unused_segments())
    if segments:
        time.sleep(_MAPPED_WITHIN)
        remove(segments.intersection(_unused_segments()))
    if not any(process.info["name"] == _PROXY for process in psutil.process_iter(["name"])):
        remove(_new_files(Path(_TOPOLOGY)))
    deadline = time.monotonic() + MARGIN
    while daemons := dict(_daemons()):
        remove(folder for folder, runs in daemons.items() if not runs)
        if not any(daemons.values()) or time.monotonic() > deadline:
            return
        time.sleep(_LOOK)


def _daemons() -> Iterator[tuple[str, bool]]:
    """The folders of Open MPI's daemons, and whether each runs."""
    for folder in _new_files(Path(tempfile.gettempdir(), f"{_DAEMON}.")):
        number = folder.rpartition(".")[2]
        if number.isdecimal():
            runs = False
            with suppress(psutil.Error):
                runs = psutil.Process(int(number)).name() == _DAEMON
            yield folder, runs


def _unused_segments() -> Iterator[str]:
    used: set[str] = set()
    for process in psutil.process_iter():
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
            used.update(found[0].strip() for found in _SEGMENT.finditer(maps))
    return (path for path in _new_files(Path("/dev/shm/mpich_shm_")) if path not in used)  # noqa: S108


def _new_files(beginning: Path) -> Iterator[str]:
    """This user's new files whose paths begin with ``beginning``."""
    for path in beginning.parent.glob(f"{beginning.name}*"):
        with suppress(OSError):
            status = path.stat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime < ALL_START:
                yield str(path)
