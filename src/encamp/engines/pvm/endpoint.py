"""An endpoint of the PVM engine: how it sends and receives frames, and leaves.

It queues frames on its connections, and wakes the thread that waits for its one descriptor. The
process's membership sends and receives the messages (`encamp.engines.pvm.membership`).
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import suppress

from encamp.engines.base import CONTROLLER, Arrival, Endpoint, Left
from encamp.engines.kit.waker import Waker
from encamp.engines.pvm.membership import (
    ENDED,
    FRAME,
    MORE_SIZES,
    PIECE,
    SIZES,
    Connection,
    Membership,
    encode,
)
from encamp.engines.pvm.pieces import SMALL
from encamp.errors import EngineFailed
from encamp.wire.frames import Buffer, flat

_TOGETHER = 1 << 15
"""Bytes of small parts that go as one message."""
_PIECE = 64 << 10
_SPIN = 0.0002
"""Seconds after the last message for which an endpoint polls without a pause."""
_OFTEN, _SELDOM = 8, 64
"""Messages after which polling stops if it finds nothing, and is tried again."""
_LEAVE_WITHIN = 3.0
"""Seconds that leaving may take if others do not read what was sent."""


class PVMEndpoint(Endpoint):
    """The endpoint of an agent, or of one of this process's controllers."""

    def __init__(self, membership: Membership, number: int) -> None:
        self.number, self._member = number, membership
        self._connections: dict[int, Connection] = {}
        self._tids: dict[int, int] = {}
        self._arrivals: list[Arrival] = []
        self._poll = select.epoll()
        self._wake = Waker()
        self._awake = self._receiving = False
        self._poll.register(self._wake, select.EPOLLIN)
        self._last = 0.0
        self._worth = _OFTEN
        self._closed = self._failed = False
        with membership.lock:
            membership.sync()
            self.watch(membership.fds)
            membership.endpoints.append(self)

    # What the membership reports

    def put(self, arrival: Arrival) -> None:
        """See `LocalEndpoint.put`."""
        self._arrivals.append(arrival)
        if not self._receiving:
            self.wake()

    def wake(self) -> None:
        """See `LocalEndpoint.wake`."""
        if not self._awake and not self._closed:
            self._awake = True
            self._wake.wake()

    def quiet(self) -> None:
        """Undo `wake`: the descriptor is no longer readable."""
        if self._awake:
            self._awake = False
            self._wake.rest()

    def watch(self, fds: Sequence[int]) -> None:
        """See `LocalEndpoint.watch`."""
        for fd in fds:
            with suppress(FileExistsError):
                self._poll.register(fd, select.EPOLLIN)

    def learn(self, table: dict[int, int]) -> None:
        """See `LocalEndpoint.learn`."""
        self._tids.update(table)

    def connection(self, number: int, tid: int) -> Connection:
        """See `LocalEndpoint.connection`."""
        if number not in self._connections:
            self._connections[number] = self._member.connections[tid] = Connection(
                tid, number, self
            )
        return self._connections[number]

    def connected(self, connection: Connection, process: Sequence[int]) -> None:
        """See `LocalEndpoint.connected`."""

    def told(self, tag: int, values: Sequence[int], text: Buffer) -> None:
        """See `LocalEndpoint.told`."""
        if tag == ENDED:
            connection = self._member.connections.get(values[0])
            if connection is not None and connection.endpoint is self:
                self.lost(connection)

    def lost(self, connection: Connection) -> None:
        """The task at the other end of a connection is gone."""
        self._connections.pop(connection.number, None)
        self._member.connections.pop(connection.tid, None)
        if connection.number == CONTROLLER:
            self.put(Left(CONTROLLER, "the controller's PVM task has ended"))

    # The interface of endpoints

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        with self._member.lock:
            connection = self._connections.get(to) or self._other(to)
            if connection is None or self._member.failure or self._closed:
                return
            total = 0
            for part in parts:
                size = part.nbytes if type(part) is memoryview else len(part)
                total += size
                if size > SMALL or total > _TOGETHER:
                    self._queue_big(connection, parts)
                    break
            else:
                connection.waiting.append((FRAME, encode(parts)))
            self._member.flush(connection)

    def _other(self, to: int) -> Connection | None:
        tid = self._tids.get(to)
        return None if tid is None else self.connection(to, tid)

    def _queue_big(self, connection: Connection, parts: Sequence[Buffer]) -> None:
        views = list(map(flat, parts))
        sizes = encode([len(view) for view in views])
        for start in range(0, len(sizes), _PIECE):
            last = start + _PIECE >= len(sizes)
            connection.waiting.append(
                (SIZES if last else MORE_SIZES, sizes[start : start + _PIECE])
            )
        small = memoryview(b"".join(view for view in views if len(view) <= SMALL))
        for view in (small, *(view for view in views if len(view) > SMALL)):
            for start in range(0, len(view), _PIECE):
                connection.waiting.append((PIECE, view[start : start + _PIECE]))

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        return any(
            connection.waiting and not connection.given_up
            for connection in list(self._connections.values())
        )

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        member = self._member
        with member.lock:
            if self._closed:
                return ()
            self._receiving = True
            try:
                if not member.failure:
                    member.drain()
            finally:
                self._receiving = False
            self.quiet()
            arrivals, self._arrivals = self._arrivals, []
            if member.failure and not arrivals:
                arrivals = self._fails(member.failure)
            if arrivals:
                self._note(time.monotonic())
            return arrivals

    def _note(self, now: float) -> None:
        """Something has arrived: learn whether polling without a pause is worth while.

        It is if answers arrive at once, and is not if this process and the other share a core.
        """
        if self._worth > 0:
            self._worth = _OFTEN if now - self._last < _SPIN else self._worth - 2
            if self._worth <= 0:
                self._worth = -_SELDOM
        else:
            self._worth = self._worth + 1 or _OFTEN // 2
        self._last = now

    def _fails(self, why: str) -> list[Arrival]:
        """Report that the machine is gone, once. Raises `EngineFailed` at the controller."""
        if self.number == CONTROLLER:
            raise EngineFailed("pvm", why)
        told, self._failed = self._failed, True
        return [] if told else [Left(CONTROLLER, why)]

    def descriptors(self) -> Sequence[int]:
        """One, which stays the same when the daemon or direct routes change."""
        return () if self._closed else (self._poll.fileno(),)

    def patience(self) -> float | None:
        """See `Endpoint.patience`."""
        member = self._member
        if self._arrivals or member.stirred or member.failure:
            return 0
        if self._worth > 0 and time.monotonic() - self._last < _SPIN:
            return 0
        with member.lock:
            if not self._closed and not member.failure:
                member.sync()
        return None

    def close(self) -> None:
        """See `Endpoint.close`."""
        member = self._member
        if self._closed:
            return
        with member.lock:
            self._settle()
            self._closed = True
            member.endpoints.remove(self)
            for connection in self._connections.values():
                member.connections.pop(connection.tid, None)
            self._poll.close()
            self._wake.close()
            if not member.endpoints:
                member.leave()

    def _settle(self) -> None:
        """Send what still waits, as far as others read it, for some seconds at most."""
        deadline = time.monotonic() + _LEAVE_WITHIN
        while self.sending and not self._member.failure and time.monotonic() < deadline:
            self._member.drain()
            if not self._member.stirred:
                self._member.sync()
                self._poll.poll(0.1)
            self._arrivals.clear()
