"""One connection of the mesh: encamp's frames inside TLS 1.3, on a non-blocking socket.

Within one host TLS ends with the handshake, in which both ends prove who they are: what goes
through the kernel only, nobody else can read or change.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from encamp.engines.kit.mesh.identity import Identity, on_one_host
from encamp.wire.frames import Buffer, Parts, Reader, Writer, size_of

_READ = 1 << 18
"""Bytes that are read from the socket at once."""
_WRITE = 1 << 18
"""Bytes that are encrypted at once: the rest waits as it is until these have gone."""
_SMALL = 1 << 14
"""Buffers up to this size are encrypted together with their neighbours, as a record has that."""
_IDLE, _EVERY, _PROBES = 3, 2, 3
"""A silent connection is asked for a sign after so many seconds, again so often, so many times."""
_UNREAD = 600_000
"""Milliseconds in which data may wait for an end that is stopped, as by Ctrl-Z, or cut off."""


class _Stream:
    """TLS over a socket, with the methods of a socket that `Reader` and `Writer` use."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        self._raw = raw
        self._come, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._come, self._goes, server_side=server)
        self._unsent: memoryview = memoryview(b"")
        self._ended = self._dry = False
        """Dry: the socket had nothing when it was last asked, so that it tells when it has."""

    @property
    def unsent(self) -> bool:
        """Whether the socket has not taken all yet."""
        return len(self._unsent) > 0

    @property
    def unread(self) -> bool:
        """Whether there is more than was read, of which the socket does not tell any more."""
        return self.tls.pending() > 0 or (self._come.pending > 0 and not self._dry)

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises OSError, EOFError."""
        try:
            while not self._shook():
                self.push()
                if not self._fetch():
                    return False
                if self._ended:
                    raise EOFError
        finally:
            self.push()  # also what tells the other end why not
        return True

    def _shook(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _fetch(self) -> bool:
        """Take what the socket has; false if it has nothing."""
        try:
            data = self._raw.recv(_READ)
        except BlockingIOError:
            self._dry = True
            return False
        self._dry = False
        if data:
            self._come.write(data)
        else:
            self._ended = True
        return True

    def recv(self, size: int) -> bytes:
        """What has come, nothing at the end; less than ``size`` if no more is known to be there."""
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
        """Whether there is something to decrypt; the socket is asked if nothing was read yet.

        (If it has more, it says so.)
        """
        if self._come.pending or self.tls.pending():
            return True
        return not (any_read or self._ended) and self._fetch() and not self._ended

    def _read(self, size: int) -> bytes:
        """The bytes of a record, or of its rest; none if it is not whole, or at the end."""
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
        """The same, into a buffer; how many bytes."""
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
        """Take some bytes; how many. Raises BlockingIOError if there is no room."""
        if self._unsent:
            self.push()
            if self._unsent:
                raise BlockingIOError
        count = self.tls.write(data if size_of(data) <= _WRITE else memoryview(data)[:_WRITE])
        self.push()
        return count

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Take some bytes of the first buffers; how many."""
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
            self._raw, self._come.read(), memoryview(b"".join((self._unsent, self._goes.read())))
        )

    def push(self) -> None:
        """Have the socket take what it can of what is encrypted."""
        with suppress(BlockingIOError):
            if self._unsent:
                self._unsent = self._unsent[self._raw.send(self._unsent) :]
            if self._goes.pending and not self._unsent:
                data = self._goes.read()
                self._unsent = memoryview(data)
                self._unsent = self._unsent[self._raw.send(data) :]


class _Plain:
    """A socket after the handshake: ``left`` had come behind it, ``unsent`` has yet to go."""

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


class Link:
    """A connection to another end, whose ``number`` is known when it has greeted.

    What goes wrong is raised as OSError or `EOFError` by `receive`, and only there, behind all that
    has come before. ``deadline`` is when it must have greeted.
    """

    def __init__(
        self, raw: socket.socket, identity: Identity, context: ssl.SSLContext, *, server: bool
    ) -> None:
        self.server = server
        self.number: int | None = None
        self.greeted = False
        self.deadline = 0.0
        self.watched = 0
        """The events that are waited for."""
        self.shaken = False
        """Whether the other end has proved that it is one of us, and frames may be sent."""
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
        """The socket's descriptor, -1 when it is closed."""
        return self._raw.fileno()

    @property
    def here(self) -> str:
        """The address of this end."""
        return str(self._raw.getsockname()[0])

    @property
    def connected(self) -> bool:
        """Whether somebody has taken the connection, who need not be one of us."""
        return not self._dialling

    @property
    def sending(self) -> bool:
        """Whether buffers that were given to `send` are still needed."""
        return bool(self._writer.waiting)

    @property
    def wants_room(self) -> bool:
        """Whether it waits until the socket takes more."""
        if self._mute:
            return False
        return self._dialling or self._stream.unsent or bool(self._writer.waiting)

    @property
    def unread(self) -> bool:
        """Whether there may be more to be received, of which the socket does not tell."""
        return self.shaken and self._stream.unread

    def receive(self) -> list[Parts]:
        """Go on with all that is under way; frames that have come."""
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
            raise ssl.SSLError("it has another certificate")
        if on_one_host(self._tls.tls) and not self.tunnelled:
            self._use(self._tls.end())
        self.shaken = True
        return True

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send a frame, or keep what cannot go now; to be called when it is `shaken`."""
        if not self._mute:
            try:
                self._writer.send(parts)
            except OSError:
                self.drop()

    def flush(self) -> None:
        """Send what was kept, as far as it goes now."""
        try:
            self._stream.push()
            self._writer.flush()
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Let go of what was kept and send no more: the other end does not take it."""
        self._mute = True
        self._writer.close()

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._writer.close()
        self._raw.close()


def prepared(raw: socket.socket) -> socket.socket:
    """A socket with all that a connection needs, before the handshake."""
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
