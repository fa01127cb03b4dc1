"""By which address of this host others reach it."""

from __future__ import annotations

import socket
from contextlib import closing, suppress

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
