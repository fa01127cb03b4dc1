"""Two processes on a bare socketpair with pickle 5, buffers out of band: nothing in between."""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Iterator
from typing import Any

from benchmarks.peers.rates import Rates, messages

_LENGTH = struct.Struct("!Q")


def send(end: socket.socket, message: Any) -> None:
    """The number of parts, each part's length, then the parts."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    lengths = b"".join(_LENGTH.pack(len(part)) for part in parts)
    start = _LENGTH.pack(len(parts)) + lengths
    if len(parts) == 1:
        end.sendall(start + pickled)
        return
    end.sendall(start)
    for part in parts:
        end.sendall(part)


def receive(end: socket.socket) -> Any:
    """Waits for a whole message; buffers are received where they stay."""
    count = _number(end)
    lengths = [_number(end) for _ in range(count)]
    pickled, *buffers = [_exactly(end, length) for length in lengths]
    return pickle.loads(pickled, buffers=buffers)


def _number(end: socket.socket) -> int:
    (number,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return int(number)


def _exactly(end: socket.socket, length: int) -> bytearray:
    content = bytearray(length)
    for rest in _rests(memoryview(content), end):
        if not rest:
            raise EOFError
    return content


def _rests(view: memoryview, end: socket.socket) -> Iterator[int]:
    while view:
        got = end.recv_into(view)
        yield got
        view = view[got:]


def _echo(end: socket.socket) -> None:
    while (message := receive(end)) is not None:
        send(end, message)


if __name__ == "__main__":
    near, far = socket.socketpair()
    if not (child := os.fork()):
        _echo(far)
        os._exit(0)

    def exchange(message: Any) -> Any:
        """There and back."""
        send(near, message)
        return receive(near)

    Rates("socketpair", **messages(exchange)).show()
    send(near, None)
    os.waitpid(child, 0)
