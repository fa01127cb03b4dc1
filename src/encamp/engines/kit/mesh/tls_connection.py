"""One connection of the mesh: encamp's frames inside TLS 1.3, on a non-blocking socket.

Within one host TLS ends after the handshake, which authenticates both ends: no other user can read
or change bytes that only pass through the kernel.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from encamp.engines.kit.mesh.certificate import Identity, on_one_host
from encamp.wire.frames import Buffer, Parts, Reader, Writer, size_of

_READ = 1 << 18
"""Bytes that are read from the socket at once."""
_WRITE = 1 << 18
"""Bytes that are encrypted at once: the rest waits unencrypted until they are sent."""
_SMALL = 1 << 14
"""Buffers up to this size, that of a TLS record, are encrypted together with their neighbours."""
_IDLE, _EVERY, _PROBES = 3, 2, 3
"""TCP keepalive: seconds before the first probe, seconds between probes, number of probes."""
_UNREAD = 600_000
"""Milliseconds for which data may wait for an end that is stopped, as by Ctrl-Z, or cut off."""


class _Stream:
    """TLS over a socket, with the methods of a socket that `Reader` and `Writer` use."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._unsent: memoryview = memoryview(b"")
        self._ended = self._dry = False
        """``_dry``: the socket was empty at the last read, so polling reports its next bytes."""

    @property
    def unsent(self) -> bool:
        """Whether encrypted bytes wait until the socket accepts them."""
        return len(self._unsent) > 0

    @property
    def unread(self) -> bool:
        """Whether bytes can be read that polling the socket does not report."""
        return self.tls.pending() > 0 or (self._incoming.pending > 0 and not self._dry)

    def shake(self) -> bool:
        """Continue the handshake; returns whether it is done. Raises OSError, EOFError."""
        try:
            while not self._continue_handshake():
                self.push()
                if not self._fetch():
                    return False
                if self._ended:
                    raise EOFError
        finally:
            self.push()  # also an alert with the reason for the other end
        return True

    def _continue_handshake(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _fetch(self) -> bool:
        """Read from the socket; False if it is empty."""
        try:
            data = self._raw.recv(_READ)
        except BlockingIOError:
            self._dry = True
            return False
        self._dry = False
        if data:
            self._incoming.write(data)
        else:
            self._ended = True
        return True

    def recv(self, size: int) -> bytes:
        """Received bytes, empty at the end; fewer than ``size`` if no more have arrived."""
        found: list[bytes] = []
        while size > 0 and self._has_more(bool(found)):
            data = self._read(size)
            if not data:
                break
            found.append(data)
            size -= len(data)
        if found:
            return found[0] if len(found) == 1 else b"".join(found)
        if self._ended:
            return b""
        raise BlockingIOError

    def _has_more(self, any_read: bool) -> bool:
        """Whether there are bytes to decrypt; reads from the socket only if ``any_read`` is false.

        (If the socket has more, polling reports it.)
        """
        if self._incoming.pending or self.tls.pending():
            return True
        return not (any_read or self._ended) and self._fetch() and not self._ended

    def _read(self, size: int) -> bytes:
        """The remaining bytes of a TLS record; empty if it is incomplete, or at the end."""
        while True:
            try:
                data = self.tls.read(size)
            except ssl.SSLWantReadError:
                if self._ended or not self._fetch():
                    return b""
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            self._ended = self._ended or not data
            return data

    def recv_into(self, view: memoryview) -> int:
        """The same, into a buffer; returns the number of bytes."""
        size = 0
        while size < len(view):
            try:
                count = self.tls.read(len(view) - size, view[size:])
            except ssl.SSLWantReadError:
                if self._ended or not self._fetch():
                    break
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                self._ended = True
                break
            if not count:
                self._ended = True
                break
            size += count  # type: ignore[operator]  # into a buffer it gives their number
        if not size and not self._ended:
            raise BlockingIOError
        return size

    def send(self, data: Buffer) -> int:
        """Accept some bytes; returns their number. Raises BlockingIOError if there is no room."""
        if self._unsent:
            self.push()
            if self._unsent:
                raise BlockingIOError
        count = self.tls.write(data if size_of(data) <= _WRITE else memoryview(data)[:_WRITE])
        self.push()
        return count

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Accept some bytes of the first buffers; returns their number."""
        first = buffers[0]
        if len(buffers) == 1 or size_of(first) > _SMALL:
            return self.send(first)
        together, total = [first], size_of(first)
        for buffer in buffers[1:]:
            total += size_of(buffer)
            if total > _SMALL:
                break
            together.append(buffer)
        return self.send(b"".join(together))

    def end(self) -> _Plain:
        """The socket without TLS, when the handshake is done on both ends."""
        return _Plain(
            self._raw,
            self._incoming.read(),
            memoryview(b"".join((self._unsent, self._outgoing.read()))),
        )

    def push(self) -> None:
        """Write encrypted bytes to the socket, as many as it accepts."""
        with suppress(BlockingIOError):
            if self._unsent:
                self._unsent = self._unsent[self._raw.send(self._unsent) :]
            if self._outgoing.pending and not self._unsent:
                data = self._outgoing.read()
                self._unsent = memoryview(data)
                self._unsent = self._unsent[self._raw.send(data) :]


class _Plain:
    """A socket after the handshake: ``left`` was read after it, ``unsent`` has to be sent first."""

    def __init__(self, raw: socket.socket, left: bytes, unsent: memoryview) -> None:
        self._raw, self._left, self._unsent = raw, left, unsent

    @property
    def unsent(self) -> bool:
        """See `_Stream.unsent`."""
        return len(self._unsent) > 0

    @property
    def unread(self) -> bool:
        """See `_Stream.unread`."""
        return len(self._left) > 0

    def recv(self, size: int) -> bytes:
        """See `_Stream.recv`."""
        if not self._left:
            return self._raw.recv(size)
        data, self._left = self._left[:size], self._left[size:]
        return data

    def recv_into(self, view: memoryview) -> int:
        """See `_Stream.recv_into`."""
        if not self._left:
            return self._raw.recv_into(view)
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    def send(self, data: Buffer) -> int:
        """See `_Stream.send`."""
        return self.sendmsg([data])

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """See `_Stream.sendmsg`."""
        if self._unsent:
            self.push()
            if self._unsent:
                raise BlockingIOError
        return self._raw.sendmsg(buffers)

    def push(self) -> None:
        """See `_Stream.push`."""
        if self._unsent:
            with suppress(BlockingIOError):
                self._unsent = self._unsent[self._raw.send(self._unsent) :]


class TLSConnection:
    """A connection to another end, whose ``number`` is known when it has greeted.

    Errors are raised as OSError or `EOFError`, only by `receive`, after all frames that arrived
    before. ``deadline`` is the time by which it must have greeted.
    """

    def __init__(
        self, raw: socket.socket, identity: Identity, context: ssl.SSLContext, *, server: bool
    ) -> None:
        self.server = server
        self.number: int | None = None
        self.greeted = False
        self.deadline = 0.0
        self.watched = 0
        """The events of the socket that the mesh waits for."""
        self.shaken = False
        """Whether the other end is authenticated, so that frames may be sent."""
        self.tunnelled = raw.family == socket.AF_UNIX
        """Whether another system carries its bytes, see `encamp.engines.kit.mesh.tunnel`."""
        self._raw, self._identity = raw, identity
        self._tls = _Stream(raw, context, server=server)
        self._use(self._tls)
        self._dialling, self._mute = not server, False

    def _use(self, stream: _Stream | _Plain) -> None:
        self._stream = stream
        like_a_socket = cast("socket.socket", stream)
        self._reader, self._writer = Reader(like_a_socket), Writer(like_a_socket)

    def fileno(self) -> int:
        """The socket's descriptor; -1 if it is closed."""
        return self._raw.fileno()

    @property
    def here(self) -> str:
        """The address of this end."""
        return str(self._raw.getsockname()[0])

    @property
    def connected(self) -> bool:
        """Whether the TCP connection is established; the other end may be a stranger."""
        return not self._dialling

    @property
    def sending(self) -> bool:
        """Whether buffers that were given to `send` are still needed."""
        return bool(self._writer.waiting)

    @property
    def wants_room(self) -> bool:
        """Whether it waits until the socket accepts more."""
        if self._mute:
            return False
        return self._dialling or self._stream.unsent or bool(self._writer.waiting)

    @property
    def unread(self) -> bool:
        """Whether frames may be waiting that polling the socket does not report."""
        return self.shaken and self._stream.unread

    def receive(self) -> list[Parts]:
        """Continue the handshake and sending, and return the frames that have arrived."""
        if self.shaken:
            if self.wants_room:
                self.flush()
        elif not self._shake():
            return []
        return self._reader.read()

    def _shake(self) -> bool:
        if self._dialling:
            if error := self._raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            try:
                self._raw.getpeername()
            except OSError:
                return False  # not yet
            self._dialling = False
        if not self._tls.shake():
            return False
        if not self._identity.shown_by(self._tls.tls):
            raise ssl.SSLError("it has a different certificate")
        if on_one_host(self._tls.tls) and not self.tunnelled:
            self._use(self._tls.end())
        self.shaken = True
        return True

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send a frame, or keep what cannot be sent now. Only call this after the handshake."""
        if not self._mute:
            try:
                self._writer.send(parts)
            except OSError:
                self.drop()

    def flush(self) -> None:
        """Send what was kept, as far as the socket accepts it."""
        try:
            self._stream.push()
            self._writer.flush()
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Drop what was kept and send no more, since the other end does not read it."""
        self._mute = True
        self._writer.close()

    def finish(self) -> None:
        """Close the sending direction."""
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._writer.close()
        self._raw.close()


def prepared(raw: socket.socket) -> socket.socket:
    """A socket with the options of a connection, before the handshake."""
    raw.setblocking(False)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE),
        ("TCP_KEEPINTVL", _EVERY),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNREAD),
    ):
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return raw


def dial(address: tuple[str, int]) -> socket.socket:
    """A socket that connects to an address, without waiting for it. Raises OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    raw = prepared(socket.socket(family, socket.SOCK_STREAM))
    try:
        raw.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        raw.close()
        raise
    return raw
