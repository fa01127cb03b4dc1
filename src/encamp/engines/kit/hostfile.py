"""Hosts as users write them, for every engine and command: in options, in hostfiles of any kind.

node1        node1:4        node1 slots=4        user@node1        node1 ip=10.0.0.2
fe80::1      [fe80::1]:4    fe80::1 slots=4      user@[fe80::1]    # a comment
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from encamp import slurm
from encamp.errors import BadHostfile, BadJob, EngineUnavailable
from encamp.number_checks import MOST_SLOTS

_HOST = re.compile(
    r"(?P<user>[^\s@\[\]:=,-][^\s@\[\]:=,]*@)?"
    r"(\[(?P<six>[^\s\[\]]+)\]|(?P<name>[^\s:=,\[\]@-][^\s:=,\[\]@]*)|(?P<bare>[0-9A-Fa-f:][^\s,=\[\]]*))"
    r"(\s*:\s*(?P<count>\w+))?"
    r"(?P<more>(\s+\w+\s*=\s*\S+)*)"
)
_SLOTS = re.compile(r"\bslots\s*=\s*(\S+)")
_AS = "write it like 'node1', 'node1:4', 'node1 slots=4' or '[fe80::1]:4'"


@dataclass(frozen=True)
class HostLine:
    """A host by its ``name``, without brackets, and how many slots it is to have.

    ``slots`` is 0 if the line has no number: one slot for each core of the host.
    """

    name: str
    slots: int = 0

    @property
    def here(self) -> bool:
        """Whether it is this host."""
        ours = {socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1", "::1"}
        return self.name in ours

    @property
    def six(self) -> bool:
        """Whether its name is an address of IPv6."""
        return ":" in self.name


def host_in(line: str) -> HostLine:
    """The host that a line names. Raises `BadJob`."""
    match = _HOST.fullmatch(line.strip())
    address = match and (match["six"] or match["bare"])
    if match is None or (address and not _is_six(address)):
        raise BadJob(repr(line), f"this is not a host; {_AS}")
    slots = _SLOTS.search(match["more"])
    count = match["count"] or (slots[1] if slots else "")
    if count and not (re.fullmatch("[0-9]{1,9}", count) and 1 <= int(count) <= MOST_SLOTS):
        why = f"slots must be an integer from 1 to {MOST_SLOTS:,}, not {count!r}; {_AS}"
        raise BadJob(repr(line), why)
    name = (match["user"] or "") + (address or match["name"])
    return HostLine(name, int(count or 0))


def _is_six(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def hosts_in(lines: Iterable[str]) -> tuple[HostLine, ...]:
    """The hosts that lines name. Slots of lines with the same name add up. Raises `BadJob`.

    Batch systems name a host once for each slot, so each repeated name counts as one slot.
    """
    found: dict[str, list[HostLine]] = {}
    for host in map(host_in, lines):
        found.setdefault(host.name, []).append(host)
    return tuple(
        same[0] if len(same) == 1 else HostLine(name, sum(host.slots or 1 for host in same))
        for name, same in found.items()
    )


def spread(hosts: Sequence[HostLine], slots: int) -> list[HostLine]:
    """Distribute slots over hosts: each gets the number in its line, in several rounds if needed.

    A line without a number counts as one slot in each round.
    """
    got = dict.fromkeys((host.name for host in hosts), 0)
    while slots > 0 and hosts:
        for host in hosts:
            more = min(host.slots or 1, slots)
            got[host.name] += more
            slots -= more
    return [HostLine(name, count) for name, count in got.items() if count]


def names_in(hosts: Sequence[str] | str) -> list[str]:
    """The hosts in an option: a list, or a string with commas. Raises `BadJob`."""
    names = hosts.split(",") if isinstance(hosts, str) else hosts
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise BadJob("hosts", f"must be names of hosts, not {hosts!r}")
    return [name.strip() for name in names if name.strip()]


def hosts_of(
    engine: str,
    hosts: Sequence[str] | str | None,
    hostfile: str | os.PathLike[str] | None,
) -> tuple[HostLine, ...]:
    """The hosts that an engine's options name, or Slurm has allocated; none for this host alone.

    Raises `BadHostfile`, `BadJob` and `EngineUnavailable`.
    """
    if hosts is None:
        if not isinstance(hostfile, str | os.PathLike | None):
            raise BadJob("hostfile", f"must be the path of a file, not {hostfile!r}")
        return hosts_in(slurm.hosts()) if hostfile is None else hosts_of_file(hostfile)
    if hostfile is not None:
        why = "it takes hosts or a hostfile, not both"
        raise EngineUnavailable(engine, why, "leave one of them out")
    found = hosts_in(names_in(hosts))
    if not found:
        raise EngineUnavailable(engine, "hosts names no host", "name some, like 'node1:4'")
    return found


_MOST = 1 << 24
"""Maximum size of a hostfile in bytes."""


def hosts_of_file(hostfile: str | os.PathLike[str]) -> tuple[HostLine, ...]:
    """The hosts in a hostfile like those of MPIs: one per line, with any kind of line endings.

    Raises `BadHostfile`.
    """
    file = os.fspath(hostfile)
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(_MOST + 1)
        if len(data) > _MOST:
            raise BadHostfile(file, "it has more than 16 MiB; give a smaller file")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise BadHostfile(file, f"{why}"[:1].lower() + f"{why}"[1:]) from exc
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    try:
        found = hosts_in(line for line in lines if line)
    except BadJob as exc:
        raise BadHostfile(file, str(exc)) from exc
    if not found:
        raise BadHostfile(file, "it names no host; write one per line, like 'node1:4'")
    return found
