"""A tunnel: the bytes of a connection, carried between two processes by another system.

It serves agents and a program that cannot connect to each other. Each end has a socket in place of
the connection's. The bytes are TLS, so nobody on the route can read them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

PIECE = 1 << 18
"""Bytes that are carried at once."""
_WINDOW, _MOST = 1 << 21, 64
"""Bytes and pieces that may be on their way: the system between has memory for all of them."""

Said = bytes | int
"""Some bytes, none at their end; or how many bytes the other end's last piece had, when taken."""


class Tunnel:
    """One end. ``say`` has something carried to the other, in order; it does not wait.

    For one event loop. The socket ``near`` is the tunnel's to close.
    """

    def __init__(self, near: socket.socket, say: Callable[[Said], object]) -> None:
        near.setblocking(False)
        self._near, self._say = near, say
        self._under_way = self._pieces = 0
        self._room = asyncio.Event()
        self._come: asyncio.Queue[bytes] = asyncio.Queue()

    def heard(self, said: Said) -> None:
        """Something has come from the other end."""
        if isinstance(said, int):
            self._under_way -= said
            self._pieces -= 1
            self._room.set()
        else:
            self._come.put_nowait(said)

    async def carry(self, first: bytes = b"") -> None:
        """Carry bytes, ``first`` those that were read already, until both ends have ended."""
        ways = [asyncio.create_task(self._out(first)), asyncio.create_task(self._in())]
        try:
            await asyncio.gather(*ways)
        except OSError:
            pass  # who has the other end of the socket has gone
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._near.close()
            with suppress(OSError):
                self._say(b"")

    async def _out(self, data: bytes) -> None:
        data = data or await self._read()
        while data:
            self._under_way += len(data)
            self._pieces += 1
            self._say(data)
            while self._under_way >= _WINDOW or self._pieces >= _MOST:
                self._room.clear()
                await self._room.wait()
            data = await self._read()
        self._say(b"")

    async def _read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._near, PIECE)

    async def _in(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._come.get():
            await loop.sock_sendall(self._near, data)
            self._say(len(data))
        self._near.shutdown(socket.SHUT_WR)
