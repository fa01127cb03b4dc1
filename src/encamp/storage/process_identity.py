"""Identifies a process, even after a reboot or when process ids are reused."""

from __future__ import annotations

import os
import socket
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import msgspec


class ProcessFacts(msgspec.Struct, frozen=True):
    """Facts that identify a process: see proc(5), pid_namespaces(7).

    ``boot`` identifies the boot of the kernel, ``start`` is the start of the process in ticks,
    ``namespace`` the namespace of process ids; each is empty if the kernel does not report it.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    start: str

    def as_dict(self) -> dict[str, Any]:
        """The facts for JSON."""
        return msgspec.structs.asdict(self)

    def as_bytes(self) -> bytes:
        """The facts as JSON."""
        return msgspec.json.encode(self)

    @property
    def near(self) -> bool:
        """Whether the process, if it lives, is visible here: same boot, same process ids."""
        return (self.boot, self.namespace) == (boot_id(), pid_namespace())

    @property
    def known_dead(self) -> bool:
        """Whether the process has certainly ended; always False if it would be invisible here."""
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
"""Maximum size in bytes of a file with the facts of a process."""
_MOST_PIDS = 1 << 31
_DECODER = msgspec.json.Decoder(ProcessFacts)


def facts_in(data: bytes) -> ProcessFacts | None:
    """The facts that `ProcessFacts.as_bytes` wrote to a file; None for anything else."""
    try:
        facts = _DECODER.decode(data)
    except (ValueError, RecursionError):
        return None
    return facts if 0 < facts.pid < _MOST_PIDS else None


BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """The identifier of the current boot of this host's kernel."""
    try:
        return BOOT_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@cache
def pid_namespace() -> str:
    """The identifier of this process's namespace of process ids."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """When a process started, in ticks; None if it is not running."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - often called
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
