"""The inbox of a rank, one message at a time, and the shortcut for small messages.

Each message contains its receiver, sender and length, so MPI may be asked twice for the same
message: a completed receive stays complete until it is started again (MPI 4.1, 3.9). After an
interrupt at any point, the message is still in the inbox or behind it.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable
from itertools import islice, repeat
from typing import TYPE_CHECKING, Protocol

from encamp.engines.engine_interface import PreparedSend, ShortMessages
from encamp.wire.frames import MARK, Buffer

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Intracomm, Prequest


FRAME = 1
"""Tag of the messages to inboxes."""
HEAD = struct.Struct("=Bxxxiq")
"""Before each message: `FRAMED` or `MARK`, its sender's rank, and how many bytes follow."""
FRAMED, _VOID = 0, 1
_SIZE = (1 << 20) + HEAD.size
"""Room for a frame of small parts, and for the sizes of as many parts as a frame may have."""
_PREPARED = 256
"""Bytes of a prepared send, including the heads."""
_SHORT = 1 << 12
"""Maximum number of bytes in a short message, which may need a separate send."""


class Rank(Protocol):
    """The part of a rank's endpoint that short messages need."""

    busy: bool

    def expects(self, to: int) -> int | None:
        """The rank of an end, which now waits for messages of this one; None if it has left."""

    def post(self, rank: int, data: Buffer) -> None:
        """Send a first message, in one step."""


class Inbox:
    """One receive that is always posted, which costs less than probing."""

    def __init__(self, mpi: ModuleType, comm: Intracomm) -> None:
        self.box = bytearray(_SIZE)
        self._view = memoryview(self.box)
        self._request: Prequest = comm.Recv_init([self.box, mpi.BYTE], mpi.ANY_SOURCE, FRAME)
        self.looks = map(self._request.Test, repeat(None))
        """Endless; a loop over it runs in C."""
        self.taken: Callable[[], None] = self._request.Start
        """Receive the next message."""
        self.taken()

    def look(self, times: int = 1) -> bool:
        """Whether a message has arrived."""
        return any(islice(self.looks, times))

    def message(self) -> tuple[int, int, memoryview] | None:
        """Kind, sender's rank, and bytes, which the next message overwrites; None if void."""
        kind, rank, size = HEAD.unpack_from(self.box)
        return None if kind == _VOID else (kind, rank, self._view[HEAD.size : HEAD.size + size])

    def void(self) -> None:
        """After an error: invalidate the message that is here, since it may be looked at again."""
        self.box[0] = self.box[HEAD.size] = _VOID

    def close(self) -> None:
        """Cancel the receive; raises the errors of MPI."""
        self._request.Cancel()
        self._request.Wait()
        self._request.Free()


class MPIShortMessages(ShortMessages):
    """Each prepared send is a persistent request of MPI, whose buffer contains the heads."""

    start = HEAD.size

    def __init__(self, endpoint: Rank, mpi: ModuleType, comm: Intracomm, inbox: Inbox) -> None:
        self._endpoint, self._mpi, self._comm, self._arrived = endpoint, mpi, comm, inbox
        self.looks, self.inbox, self.taken = inbox.looks, inbox.box, inbox.taken
        self.size = memoryview(inbox.box)[HEAD.size - 8 : HEAD.size].cast("q")
        self.error: type[Exception] = mpi.Exception
        self._over: list[Prequest] = []
        """Requests of prepared sends that are no longer referenced."""
        self.usable = True
        """Whether no rank is missing or leaving, and no long message is arriving."""

    def prepare(self, to: int, head: bytes) -> PreparedSend:
        """See `ShortMessages.prepare`."""
        endpoint, me = self._endpoint, self._comm.rank
        rank = endpoint.expects(to)
        if rank is None:
            return _refuse
        self._free()
        heads = HEAD.pack(MARK, me, _PREPARED - HEAD.size) + head
        buffer = bytearray(heads.ljust(_PREPARED))
        rest = memoryview(buffer)[len(heads) :]
        room = len(rest)
        request = self._comm.Send_init([buffer, self._mpi.BYTE], rank, FRAME)
        done, start, error = request.Test, request.Start, self.error

        def send(data: bytes) -> bool:
            size = len(data)
            if size > _SHORT or not self.usable:
                return False
            try:
                if size <= room and done():
                    rest[:size] = data
                    start()
                else:
                    endpoint.post(rank, HEAD.pack(MARK, me, len(head) + size) + head + data)
            except error:
                return False  # the message is sent the usual way, which reports the error
            endpoint.busy = True
            return True

        # The last reference may be dropped in any thread, so the request is freed later.
        weakref.finalize(send, self._over.append, request).atexit = False
        return send

    def _free(self) -> None:
        """Free the unreferenced requests that have completed."""
        over, self._over[:] = self._over[:], []
        for request in over:
            try:
                if request.Test():
                    request.Free()
                else:
                    self._over.append(request)
            except self.error:
                continue

    def failed(self) -> None:
        """See `ShortMessages.failed`."""
        self._arrived.void()


def _refuse(_: bytes) -> bool:
    """A prepared send to an end that has left."""
    return False
