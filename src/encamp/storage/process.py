"""Identifying a process, also after a reboot or when process ids are reused."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True)
class ProcessFacts:
    """What no two processes have in common: see proc(5), pid_namespaces(7).

    ``boot`` names the boot of the kernel, ``start`` when the process started in its ticks, and
    ``namespace`` the process ids' name space; each is empty where the kernel does not say.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    start: str

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON carries them."""
        return asdict(self)

    def as_bytes(self) -> bytes:
        """The facts as JSON."""
        return msgspec.json.encode(self)

    @property
    def near(self) -> bool:
        """Whether this process could see it: same boot, same process ids."""
        return (self.boot, self.namespace) == (boot_id(), pid_namespace())

    @property
    def known_dead(self) -> bool:
        """Whether it is sure that the process is no more; never guessed from afar."""
        if self.near:
            return self != this_process() and start_of(self.pid) != self.start
        return self.host == socket.gethostname() and bool(self.boot) and self.boot != boot_id()


def this_process() -> ProcessFacts:
    """The facts of this process."""
    return _facts_of(os.getpid(), socket.gethostname())


@lru_cache(maxsize=1)
def _facts_of(pid: int, host: str) -> ProcessFacts:
    return ProcessFacts(host, boot_id(), pid_namespace(), pid, start_of(pid) or "")


MOST_FACTS = 1 << 14
"""Bytes that a file with the facts of a process has at most."""
_MOST_PIDS = 1 << 31
_DECODER = msgspec.json.Decoder(ProcessFacts)


def facts_in(data: bytes) -> ProcessFacts | None:
    """What `ProcessFacts.as_bytes` gave, as it was read from a file; None for anything else."""
    try:
        facts = _DECODER.decode(data)
    except (ValueError, RecursionError):
        return None
    return facts if 0 < facts.pid < _MOST_PIDS else None


BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """What names this boot of this host's kernel."""
    try:
        return BOOT_FILE.read_text().strip()
    except OSError:
        return ""


@cache
def pid_namespace() -> str:
    """What names the set of process ids that this process sees."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """When a process started; None if there is none that runs."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - often called
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
