"""How hosts are named for PVM, and plain reasons why some could not be added."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from encamp.engines.kit.hostfile import HostLine, host_in
from encamp.engines.pvm import libpvm
from encamp.errors import BadJob

_HOST = re.compile(r"\w[\w.-]*( +(bx|dx|ep|id|ip|lo|so|sp|wd)=\S+)*", re.ASCII)
"""A name with options as pvmd(1) has them in host files."""
_NOTATION = "write it as in PVM's host files, like 'node1' or 'node1 ip=10.0.0.1 lo=other_user'"
_ADDRESS = (
    "give the address at which they reach it: address=10.0.0.5 (encamp run: --option "
    "address=10.0.0.5) "
    "for a virtual machine of the program's own, pvm -n10.0.0.5 for one that you start"
)
_NOISE = ("", "EOF")
_MESSAGE = re.compile(r"\] (?:\S+ ){2}std(?:out|err)@([^:\s]+): (.*)")
"""A line of a daemon's log with a host's address and its answer."""
_COMMON = (
    ("*run* PVM as a *regular* user", "set PVM_ALLOW_ROOT=1 on {name}, for non-interactive logins"),
    ("execvp failed", "the remote shell {shell}, which PVM_RSH names, cannot be run"),
    (
        "Host key verification failed",
        "Host key verification failed; log in once by hand: {shell} {name}",
    ),
    (
        "Permission denied",
        "Permission denied; {shell} must get there without a password, as with a key in ssh-agent",
    ),
    ("No route to host", "No route to host; check that it is up, and its address"),
    ("Network is unreachable", "Network is unreachable; check its address"),
    ("Connection refused", "Connection refused; check that its ssh server runs"),
    ("timed out", "the connection timed out; check that it is up"),
)
"""Texts in a host's answer, and the reason that each stands for."""


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


def why_not(codes: Mapping[str, int], log: str, shell: str) -> str:
    """A sentence about the hosts that could not be added, from PVM's ``codes``.

    ``log`` is the daemon's new output, ``shell`` the command that it uses to reach hosts.
    """
    if libpvm.LOOPBACK in codes.values():
        return f"hosts could not be added: {libpvm.code_text(libpvm.LOOPBACK)}; {_ADDRESS}"
    messages = [found.groups() for found in map(_MESSAGE.search, log.splitlines()) if found]
    bad = [_reason(host, code, messages, shell) for host, code in codes.items()]
    return f"hosts could not be added: {'; '.join(bad)}"


def _reason(host: str, code: int, messages: Iterable[tuple[str, ...]], shell: str) -> str:
    name, *options = host.split()
    if code == libpvm.NO_HOST:
        return (
            f"{name}: no such host: its name must be known to the resolver here, "
            f'or write it as "{name} ip=10.0.0.2"'
        )
    where = next((option[3:] for option in options if option.startswith("ip=")), name)
    lines = [line for at, line in messages if at == where and line not in _NOISE]
    for sign, words in _COMMON:
        if any(sign in line for line in lines):
            return f"{name}: {words.format(name=name, shell=shell)}"
    return f"{name}: {': '.join([libpvm.code_text(code), *lines[-1:]])}"
