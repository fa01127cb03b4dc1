"""How an end of the PVM engine's network sends frames, receives them, and leaves.

It queues frames on its lines, and wakes whoever waits on its one descriptor. The process's
membership sends and receives the messages (`encamp.engines.pvm.membership`).
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
    Line,
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
"""Seconds after the last message for which an end looks without a pause."""
_OFTEN, _SELDOM = 8, 64
"""Messages after which it is given up if nothing comes meanwhile, and tried again."""
_LEAVE_WITHIN = 3.0
"""Seconds that leaving may take if others do not take what was sent."""


class PVMEndpoint(Endpoint):
    """One end: an agent's, or that of one of this process's controllers."""

    def __init__(self, membership: Membership, number: int) -> None:
        self.number, self._member = number, membership
        self._lines: dict[int, Line] = {}
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
            membership.ends.append(self)

    # What the membership tells

    def put(self, arrival: Arrival) -> None:
        """Have this end receive something, whoever finds it."""
        self._arrivals.append(arrival)
        if not self._receiving:
            self.wake()

    def wake(self) -> None:
        """Make the descriptor readable."""
        if not self._awake and not self._closed:
            self._awake = True
            self._wake.wake()

    def quiet(self) -> None:
        """Make the descriptor readable no more by `wake`."""
        if self._awake:
            self._awake = False
            self._wake.rest()

    def watch(self, fds: Sequence[int]) -> None:
        """Have the descriptor tell of these."""
        for fd in fds:
            with suppress(FileExistsError):
                self._poll.register(fd, select.EPOLLIN)

    def learn(self, table: dict[int, int]) -> None:
        """Know the tasks of other agents."""
        self._tids.update(table)

    def line(self, number: int, tid: int) -> Line:
        """The line to another end, new if there is none."""
        if number not in self._lines:
            self._lines[number] = self._member.lines[tid] = Line(tid, number, self)
        return self._lines[number]

    def met(self, line: Line, process: Sequence[int]) -> None:
        """A direct line is there."""

    def told(self, tag: int, values: Sequence[int], text: Buffer) -> None:
        """A daemon says that a task has ended."""
        if tag == ENDED:
            line = self._member.lines.get(values[0])
            if line is not None and line.end is self:
                self.lost(line)

    def lost(self, line: Line) -> None:
        """The task at the other end of a line is gone."""
        self._lines.pop(line.number, None)
        self._member.lines.pop(line.tid, None)
        if line.number == CONTROLLER:
            self.put(Left(CONTROLLER, "the controller's PVM task has ended"))

    # An end of an engine's network

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        with self._member.lock:
            line = self._lines.get(to) or self._other(to)
            if line is None or self._member.failure or self._closed:
                return
            total = 0
            for part in parts:
                size = part.nbytes if type(part) is memoryview else len(part)
                total += size
                if size > SMALL or total > _TOGETHER:
                    self._queue_big(line, parts)
                    break
            else:
                line.waiting.append((FRAME, encode(parts)))
            self._member.flush(line)

    def _other(self, to: int) -> Line | None:
        tid = self._tids.get(to)
        return None if tid is None else self.line(to, tid)

    def _queue_big(self, line: Line, parts: Sequence[Buffer]) -> None:
        views = list(map(flat, parts))
        sizes = encode([len(view) for view in views])
        for start in range(0, len(sizes), _PIECE):
            last = start + _PIECE >= len(sizes)
            line.waiting.append((SIZES if last else MORE_SIZES, sizes[start : start + _PIECE]))
        small = memoryview(b"".join(view for view in views if len(view) <= SMALL))
        for view in (small, *(view for view in views if len(view) > SMALL)):
            for start in range(0, len(view), _PIECE):
                line.waiting.append((PIECE, view[start : start + _PIECE]))

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        return any(line.waiting and not line.given_up for line in list(self._lines.values()))

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
        """Something has come: learn whether looking for it without a pause is worth while.

        It is where answers come at once, and not where this end and the other share a core.
        """
        if self._worth > 0:
            self._worth = _OFTEN if now - self._last < _SPIN else self._worth - 2
            if self._worth <= 0:
                self._worth = -_SELDOM
        else:
            self._worth = self._worth + 1 or _OFTEN // 2
        self._last = now

    def _fails(self, why: str) -> list[Arrival]:
        """What becomes of an end whose machine is gone."""
        if self.number == CONTROLLER:
            raise EngineFailed("pvm", why)
        told, self._failed = self._failed, True
        return [] if told else [Left(CONTROLLER, why)]

    def descriptors(self) -> Sequence[int]:
        """One, whatever becomes of the daemon and of direct routes."""
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
            member.ends.remove(self)
            for line in self._lines.values():
                member.lines.pop(line.tid, None)
            self._poll.close()
            self._wake.close()
            if not member.ends:
                member.leave()

    def _settle(self) -> None:
        """Send what still waits, as far as others take it, in some seconds at most."""
        deadline = time.monotonic() + _LEAVE_WITHIN
        while self.sending and not self._member.failure and time.monotonic() < deadline:
            self._member.drain()
            if not self._member.stirred:
                self._member.sync()
                self._poll.poll(0.1)
            self._arrivals.clear()
