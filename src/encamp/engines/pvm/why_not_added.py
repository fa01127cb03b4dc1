"""Plain reasons why hosts could not be added to the virtual machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from encamp.engines.pvm import libpvm

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


def why_not_added(codes: Mapping[str, int], log: str, shell: str) -> str:
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
