"""The addresses at which others reach this host."""

from __future__ import annotations

import ipaddress
import re
import socket
import subprocess
from collections.abc import Sequence
from contextlib import closing, suppress

import psutil

_ANY = 9
"""The port of a datagram that is never sent."""


def address_towards(host: str) -> str:
    """The address of this host from which a packet to another leaves; empty if there is none."""
    with suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, _ANY, type=socket.SOCK_DGRAM
        ):
            with closing(socket.socket(family, kind, protocol)) as probe, suppress(OSError):
                probe.connect(address)
                return str(probe.getsockname()[0])
    return ""


def address_towards_login(name: str, shell: Sequence[str]) -> str:
    """The same for a name from the configuration of ``shell``, an ssh."""
    with suppress(OSError, subprocess.TimeoutExpired):
        asked = [*shell, "-G", name]
        done = subprocess.run(
            asked, capture_output=True, text=True, timeout=5, cwd="/", start_new_session=True
        )
        if found := re.search(r"^hostname (\S+)$", done.stdout, re.MULTILINE):
            name = found[1]
    return address_towards(name)


def is_loopback(address: str) -> bool:
    """Whether only this host can reach an address."""
    return ipaddress.ip_address(address).is_loopback


def addresses_here() -> list[str]:
    """The IPv4 addresses at which others may reach this host."""
    found = [one for some in psutil.net_if_addrs().values() for one in some]
    addresses = [one.address for one in found if one.family == socket.AF_INET]
    return [address for address in addresses if not is_loopback(address)]
