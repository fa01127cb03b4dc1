"""How hosts are named for PVM."""

from __future__ import annotations

import re
from collections.abc import Iterable

from encamp.engines.kit.hostfile import HostLine, host_in
from encamp.errors import BadJob

_HOST = re.compile(r"\w[\w.-]*( +(bx|dx|ep|id|ip|lo|so|sp|wd)=\S+)*", re.ASCII)
"""A name with options as pvmd(1) has them in host files."""
_NOTATION = "write it as in PVM's host files, like 'node1' or 'node1 ip=10.0.0.1 lo=other_user'"


def host_names(given: object) -> list[str]:
    """The hosts that a user names, each once, by its first word. Raises `BadJob`."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Iterable):
        raise BadJob("hosts", f"must be names of hosts, not {given!r}")
    return list({host.split()[0]: host for host in reversed([*map(_host, given)])}.values())[::-1]


def first_words(hosts: Iterable[str]) -> set[str]:
    """The names of hosts, without their options."""
    return {host.split()[0] for host in hosts}


def addresses_in(hosts: Iterable[str]) -> dict[str, str]:
    """The addresses of hosts, by name, as far as their options give them."""
    found = (re.fullmatch(r"(\S+) (?:.* )?ip=(\S+).*", host) for host in hosts)
    return {match[1]: match[2] for match in found if match}


def _host(given: object) -> str:
    if not isinstance(given, str):
        raise BadJob("hosts", f"must be names of hosts, not {given!r}")
    host = " ".join(given.lstrip("\ufeff").split())
    line = parsed(host)
    if line is not None and line.six:
        raise BadJob(f"host {host!r}", "PVM does not support IPv6; give an IPv4 address")
    if line is not None and line.slots:
        why = "PVM takes no number of slots per host; leave it out, and set slots=… for all"
        raise BadJob(f"host {host!r}", why)
    if not _HOST.fullmatch(host):
        raise BadJob(f"host {given!r}", _NOTATION)
    return host


def parsed(host: str) -> HostLine | None:
    """The host in the notation of the other engines; None if it is not in that notation."""
    try:
        return host_in(host)
    except BadJob:
        return None
