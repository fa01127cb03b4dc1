"""A tunnel: the bytes of a connection, carried between two processes by another system.

It serves agents and a program that cannot connect to each other. Each end has a socket in place of
the connection's. The bytes are TLS, so they cannot be read on the route.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

PIECE = 1 << 18
"""Maximum number of bytes in one piece."""
_WINDOW, _MOST = 1 << 21, 64
"""Maximum numbers of bytes and pieces in transit: the system in between keeps them in memory."""

TunnelData = bytes | int
"""Bytes, empty at their end; or an acknowledgement: the number of bytes that were read."""


class Tunnel:
    """One end of a tunnel. ``send`` sends something to the other end, in order, without waiting.

    For one event loop. The task of `begin` closes the socket ``near``.
    """

    def __init__(self, near: socket.socket, send: Callable[[TunnelData], object]) -> None:
        near.setblocking(False)
        self._near, self._send = near, send
        self._under_way = self._pieces = 0
        self._room = asyncio.Event()
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()

    def receive(self, data: TunnelData) -> None:
        """Handle what has arrived from the other end."""
        if isinstance(data, int):
            self._under_way -= data
            self._pieces -= 1
            self._room.set()
        else:
            self._arrived.put_nowait(data)

    def begin(self) -> asyncio.Task[None]:
        """Carry bytes until both ends have ended.

        Call it in the event loop. The task may be cancelled, even before it has begun.
        """
        carrying = asyncio.create_task(self._carry())
        carrying.add_done_callback(lambda _: self._near.close())
        return carrying

    async def _carry(self) -> None:
        both = [asyncio.create_task(self._out()), asyncio.create_task(self._in())]
        try:
            await asyncio.gather(*both)
        except OSError:
            pass  # the owner of the socket's other end has ended
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            with suppress(OSError):
                self._send(b"")

    async def _out(self) -> None:
        data = await self._read()
        while data:
            self._under_way += len(data)
            self._pieces += 1
            self._send(data)
            while self._under_way >= _WINDOW or self._pieces >= _MOST:
                self._room.clear()
                await self._room.wait()
            data = await self._read()
        self._send(b"")

    async def _read(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._near, PIECE)

    async def _in(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._arrived.get():
            await loop.sock_sendall(self._near, data)
            self._send(len(data))
        self._near.shutdown(socket.SHUT_WR)
