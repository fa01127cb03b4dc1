"""What comes to a rank, one message after the other, and the short way of small ones.

Each message says itself whose it is, and how long, so that it does no harm to ask MPI twice for
the same one: a receive that has ended stays so until it is started again (MPI 4.1, 3.9). An
interrupt anywhere finds the message in the inbox or behind it.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Protocol

from encamp.engines.base import MARK, Line, ShortMessages
from encamp.wire import Buffer

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Intracomm, Prequest


FRAME = 1
"""Tag of what comes to inboxes."""
HEAD = struct.Struct("=Bxxxiq")
"""Before each message: `FRAMED` or `MARK`, its sender's rank, and the bytes of a frame."""
FRAMED = 0
_SIZE = (1 << 20) + HEAD.size
"""Has room for a frame of small parts, and for the sizes of as many as `encamp.wire` allows."""
_SHORT = 256
"""Bytes of a short message, the heads included."""
_TRIES = 40


class Rank(Protocol):
    """A rank's end, as far as lines need it."""

    busy: bool
    """Whether something has happened since it was asked how long one may wait."""

    def expects(self, to: int) -> int | None:
        """The rank of an end, which waits from now on for what this one sends; None: it is gone."""

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """`Endpoint.send`."""


class Inbox:
    """One receive that is always posted, which costs less than probing."""

    def __init__(self, mpi: ModuleType, comm: Intracomm) -> None:
        self.box = bytearray(_SIZE)
        self._view = memoryview(self.box)
        self._request: Prequest = comm.Recv_init([self.box, mpi.BYTE], mpi.ANY_SOURCE, FRAME)
        self.tests = map(self._request.Test, repeat(None))
        """Without an end; a loop over these is one of C's."""
        self.taken: Callable[[], None] = self._request.Start
        """Let the next message in."""
        self.taken()

    def look(self, times: int = 1) -> bool:
        """Whether a message is there; several looks take less time than a caller's way round."""
        return any(islice(self.tests, times))

    def message(self) -> tuple[int, int, memoryview]:
        """What it is, whose, and its bytes, which the next one overwrites."""
        kind, rank, size = HEAD.unpack_from(self.box)
        end = _SHORT if kind == MARK else HEAD.size + size
        return kind, rank, self._view[HEAD.size : end]

    def close(self) -> None:
        """Wait for no more; raises what MPI does."""
        self._request.Cancel()
        self._request.Wait()
        self._request.Free()


class MPIShortMessages(ShortMessages):
    """Each line is a send of MPI that is prepared once, from a buffer with the heads in it."""

    start = HEAD.size

    def __init__(self, end: Rank, mpi: ModuleType, comm: Intracomm, inbox: Inbox) -> None:
        self._end, self._mpi, self._comm = end, mpi, comm
        self._tests = inbox.tests
        self.inbox, self.taken = inbox.box, inbox.taken
        self._over: list[Prequest] = []
        """Sends of lines that nobody has any more."""
        self.usable = True
        """Whether all ranks are there, nobody leaves, and nothing long comes in."""

    def line(self, to: int, head: bytes) -> Line:
        """See `ShortMessages.line`."""
        end = self._end
        rank = end.expects(to)
        if rank is None:
            return bytes  # which does nothing about it
        self._free()
        heads = HEAD.pack(MARK, self._comm.rank, 0) + head
        buffer = bytearray(heads.ljust(_SHORT))
        rest = memoryview(buffer)[len(heads) :]
        room = len(rest)
        request = self._comm.Send_init([buffer, self._mpi.BYTE], rank, FRAME)
        done, start, error = request.Test, request.Start, self._mpi.Exception

        def send(data: bytes) -> None:
            size = len(data)
            try:
                if self.usable and size <= room and done():
                    rest[:size] = data
                    start()
                    end.busy = True
                    return
            except error:
                pass  # it is told, or handled, where the message goes the usual way
            end.send(to, [head + data])

        # Whoever has the last of it may be in any thread, so the request is given back later.
        weakref.finalize(send, self._over.append, request).atexit = False
        return send

    def _free(self) -> None:
        """Give the requests of lines back that nobody has any more, as far as they are through."""
        over, self._over[:] = self._over[:], []
        for request in over:
            try:
                if request.Test():
                    request.Free()
                else:
                    self._over.append(request)
            except self._mpi.Exception:
                continue

    def look(self) -> bool | None:
        """See `ShortMessages.look`."""
        if not self.usable:
            return False
        try:
            if any(islice(self._tests, _TRIES)):
                self._end.busy = True
                return self.inbox[0] == MARK
        except self._mpi.Exception:
            return False
        return None
