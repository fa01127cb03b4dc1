"""How a rank of an MPI job sends frames, receives them, and leaves.

The first message of each frame goes to the receiver's inbox (`inbox.Inbox`): a msgpack array of the
frame's parts if all are small, and otherwise of their sizes. Then one message with the small parts,
and one for each big part, follow with a different tag, without copies. An array of -1 or -2
means that its sender leaves, or that all ranks are to leave at once.

MPI cannot wake a process, so a rank polls: without a pause while something happens, then less
often.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec

from encamp.engines.engine_interface import Arrival, Endpoint, Frame, Left
from encamp.engines.mpi.inbox import FRAME, FRAMED, HEAD, Inbox, MPIShortMessages
from encamp.engines.mpi.leftovers import remove
from encamp.engines.mpi.watched_processes import Processes
from encamp.errors import EngineFailed
from encamp.timeouts import LEAVES, STARTS
from encamp.wire.frames import MARK, Buffer, Parts, flat

if TYPE_CHECKING:
    from types import ModuleType

    from mpi4py.MPI import Exception as MPIError
    from mpi4py.MPI import Intracomm, Request

SPIN = 0.001
"""Seconds that a rank polls without a pause after the last message."""
_LONG_WAY = 0.02
"""The same, while a long message is in transit: MPIs transfer it only while they are polled."""
_ALONE = 0.00003
"""The same, before it also yields the core, which the process that it waits for may need."""
IDLE = 0.004
"""Seconds between two polls of a rank that has just become idle."""
LONG = 0.25
IDLE_LONG = 0.01, 0.02
"""The same, if nothing has arrived for `LONG` seconds, and for one second."""
UNDER_WAY = 0.0002
"""Seconds between two polls after that, while a message is in transit."""

_SMALL = 1 << 16
"""Parts up to this size are sent together."""
_TOGETHER = 1 << 17
"""Maximum number of bytes of parts that are sent together."""
_PIECE = 1 << 30
"""Bytes in one MPI message; old libraries count them in 31 bits."""
_LOOKS = 40
"""Polls at a time: they take less than a caller's loop around them."""
_SHORT = 1 << 12
"""Messages up to this size are sent at once, whatever the receiver does, and tested later."""
_UNSEEN = 16
"""Maximum number of sent messages that are not tested yet."""
_AT_ONCE = 256
"""Maximum number of frames that one call of `MPIEndpoint.receive` returns."""
_PART = 2
"""Tag of the messages after the first one of a frame."""
_LEAVES, _LEAVES_ABRUPTLY = -1, -2
"""The last message of a rank: it leaves, and waits for the others or does not."""

_encode_into = msgspec.msgpack.Encoder().encode_into
_decode = msgspec.msgpack.Decoder(list[bytes | int]).decode


class MPIEndpoint(Endpoint):
    """The endpoint of an agent or a gateway. Agents have the numbers ``base`` + rank."""

    def __init__(self, mpi: ModuleType, comm: Intracomm, base: int = 0) -> None:
        self._mpi, self._comm, self._base = mpi, comm, base
        self._rank, self._ranks = comm.rank, comm.size
        self.number = comm.rank and comm.rank + base
        self._gone: set[int] = set()
        self._arrivals: list[Arrival] = []
        self._posted: deque[tuple[int, Request]] = deque()
        """Sends that were not tested yet: a test takes as long as sending."""
        self._sending: dict[int, deque[Request]] = {}
        """Sends that had not completed when they were tested."""
        self._looking = False
        """Whether these two are being changed. A signal's handler may send in the meantime."""
        self._long: set[int] = set()
        """Ranks to which long parts are being sent."""
        self._coming: dict[int, deque[tuple[Parts, deque[Request]]]] = {}
        self._expected = array("q", [0]) * self._ranks
        """1 for each rank that may have been sent something, which waits for a last message."""
        self._have_left = 0
        self.busy, self._since = True, 0.0
        self._missed = False
        self._closed = False
        self.settled = False
        """Whether all ranks have left together, so that the MPI can be ended."""
        self.remains: Sequence[str] = ()
        """Files to remove if the job ends by force."""
        self._abrupt = False
        self._dead: set[int] = set()
        self._unnoticed: set[int] = set()
        self._total = array("q", [0])
        self._announced = False
        self._counted: Request | None = None
        self._all_leave: Request | None = None
        """Collective steps of leaving; an interrupted `close` continues with them."""
        self._deadline = self._last = 0.0
        self._processes = Processes()
        self._inbox = Inbox(mpi, comm)
        self.short: MPIShortMessages = MPIShortMessages(self, mpi, comm, self._inbox)

    @property
    def ranks(self) -> int:
        """The number of ranks, including rank 0."""
        return self._ranks

    def send(self, to: int, parts: Sequence[Buffer]) -> None:
        """See `Endpoint.send`."""
        rank = self.expects(to)
        if rank is None:
            return
        if _is_small(parts):
            self.post(rank, self._head_and(parts))
        else:
            self._send_big(rank, parts)
            self._look_at_posted()
            if rank in self._sending:
                self._long.add(rank)

    @property
    def sending(self) -> bool:
        """See `Endpoint.sending`."""
        return not self._sending.keys() <= self._unnoticed

    def post(self, rank: int, data: Buffer) -> None:
        """See `Rank.post`."""
        self._post(rank, data, FRAME)
        if (len(data) > _SHORT or len(self._posted) > _UNSEEN) and not self._looking:
            self._look_at_posted()

    def expects(self, to: int) -> int | None:
        """See `Rank.expects`."""
        rank = to - self._base if to else 0
        if rank in self._gone or not 0 <= rank < self._ranks or self._closed:
            return None
        self._expected[rank] = 1
        return rank

    def _head_and(self, what: Sequence[Buffer | int]) -> bytearray:
        """The first message of a frame."""
        data = bytearray(HEAD.size)
        _encode_into(what, data, HEAD.size)
        HEAD.pack_into(data, 0, FRAMED, self._rank, len(data) - HEAD.size)
        return data

    def _send_big(self, rank: int, parts: Sequence[Buffer]) -> None:
        views = list(map(flat, parts))
        self._post(rank, self._head_and(list(map(len, views))), FRAME)
        small = b"".join(view for view in views if len(view) <= _SMALL)
        for view in (memoryview(small), *(view for view in views if len(view) > _SMALL)):
            for start in range(0, len(view), _PIECE):
                self._post(rank, view[start : start + _PIECE], _PART)

    def _post(self, rank: int, data: Buffer, tag: int) -> None:
        self.busy = True
        self._missed = False
        post = map(self._comm.Isend, (data,), (rank,), (tag,))
        posted = zip((rank,), post, strict=True)
        try:
            self._posted.extend(posted)  # one step: an interrupt arrives before or after all of it
        except self._mpi.Exception as exc:
            self._fault(exc, rank)

    def _look_at_posted(self) -> None:
        self._expect_posted()
        self._drop_sent()

    def _expect_posted(self) -> None:
        """Let the next `receive` test the sends that were posted."""
        try:
            self._looking = True
            while self._posted:
                rank, request = self._posted[0]
                self._sending.setdefault(rank, deque()).append(request)
                self._posted.popleft()
        finally:
            self._looking = False

    def receive(self) -> Sequence[Arrival]:
        """See `Endpoint.receive`."""
        arrivals, self._arrivals = self._arrivals, []  # agents join before their frames arrive
        if not self._closed:
            self._receive(arrivals)
        if self._sending:
            self._drop_sent()
        if self._coming:
            self._complete(arrivals)
        if self._arrivals:
            arrivals += self._arrivals
            self._arrivals = []
        if arrivals:
            self.busy = True
        return arrivals

    def _receive(self, arrivals: list[Arrival]) -> None:
        look = self._inbox.look
        try:
            arrived = look()
            most = _AT_ONCE if arrived and not self._missed else 1  # an answer arrives alone
            # Only after the second empty poll: senders call this, too, and soon continue.
            arrived = arrived or (self._missed and look(_LOOKS))
            self._missed = not arrived
            while arrived:
                self._take(arrivals)
                arrived = len(arrivals) < most and look()
        except self._mpi.Exception as exc:
            self._inbox.void()
            self._fault(exc)
        except msgspec.DecodeError as exc:
            raise EngineFailed(
                "mpi", f"a message on encamp's communicator is not from encamp ({exc})"
            ) from exc

    def _take(self, arrivals: list[Arrival]) -> None:
        """Handle the message in the inbox."""
        message = self._inbox.message()
        if message is None:
            self._inbox.taken()
            return
        kind, rank, data = message
        parts: list[Any] = [bytes(data)] if kind == MARK else _decode(data)
        self._inbox.taken()
        self.busy = True
        if type(parts[0]) is int or rank in self._coming:
            self._extend(rank, parts)
        elif rank not in self._gone:
            arrivals.append(Frame(rank and rank + self._base, parts))

    def _extend(self, rank: int, parts: list[Any]) -> None:
        """Handle a message that is not a whole frame, or that follows an incomplete one."""
        self.short.usable = False
        requests: deque[Request] = deque()
        if type(parts[0]) is int:
            self._abrupt = self._abrupt or parts[0] == _LEAVES_ABRUPTLY
            parts = self._expect(rank, parts, requests) if parts[0] >= 0 else []
        self._coming.setdefault(rank, deque()).append((parts, requests))

    def _expect(self, rank: int, sizes: list[int], requests: deque[Request]) -> Parts:
        """Post the receives for the parts of a big frame; returns the parts, to be filled."""
        ends = list(accumulate(size if size <= _SMALL else 0 for size in sizes))
        small = self._buffer(ends[-1])
        big = [self._buffer(size) if size > _SMALL else None for size in sizes]
        for view in (small, *big):
            for start in range(0, len(view or b""), _PIECE):
                assert view is not None  # noqa: S101
                piece = view[start : start + _PIECE]
                requests.append(self._comm.Irecv([piece, self._mpi.BYTE], rank, _PART))
        return [
            small[end - size : end] if view is None else view
            for size, end, view in zip(sizes, ends, big, strict=True)
        ]

    def _buffer(self, size: int) -> memoryview:
        """Memory without zeros, since filling takes as long as a copy."""
        return memoryview(self._mpi.buffer.allocate(size)) if size else memoryview(b"")

    def _complete(self, arrivals: list[Arrival]) -> None:
        for rank, frames in list(self._coming.items()):
            while frames and self._through(rank, frames[0][1]):
                parts, _ = frames.popleft()
                if parts:
                    arrivals.append(Frame(rank and rank + self._base, parts))
                else:
                    self._have_left += 1
                    self._lose(rank, "it has left the MPI job")
            if not frames:
                self._coming.pop(rank, None)
        self.short.usable = not (self._coming or self._gone or self._unnoticed or self._closed)

    def _through(self, rank: int, requests: deque[Request]) -> bool:
        try:
            while requests and requests[0].Test():
                requests.popleft()
                self.busy = True
        except self._mpi.Exception as exc:
            self._fault(exc, rank)
            return False
        return not requests

    def _drop_sent(self) -> None:
        try:
            self._looking = True
            for rank, requests in list(self._sending.items()):
                if self._through(rank, requests):
                    self._sending.pop(rank, None)
                    self._long.discard(rank)
        finally:
            self._looking = False

    def _fault(self, exc: MPIError, rank: int | None = None) -> None:
        """Continue without dead ranks if the MPI can; otherwise raise `EngineFailed`."""
        mpi = self._mpi
        if exc.Get_error_class() not in (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING):
            raise EngineFailed("mpi", str(exc)) from exc
        if rank is not None:
            self._dead.add(rank)
        self._note_failures()

    def _note_failures(self) -> None:
        failed = self._comm.Get_failed()
        self._comm.Ack_failed(failed.size)
        self._dead.update(self._mpi.Group.Translate_ranks(failed, None, self._comm.group))
        for rank in self._dead:
            self._drop_dead(rank)

    def watch(self, processes: Mapping[int, int]) -> None:
        """Watch processes of this host, from rank to process id.

        Open MPI does not notice the death of a process that ends by ``exit``.
        """
        self._processes.add(processes)

    def _look_for_dead(self) -> None:
        for rank in self._processes.ended():
            if rank not in self._gone:
                self._unnoticed.add(rank)
                self._drop_dead(rank)

    def end_watched(self) -> None:
        """End the watched processes that are still there, by force."""
        self._processes.kill()

    def give_up(self, number: int) -> None:
        """Stop waiting for an agent; frames in transit may still reach it."""
        self._unnoticed.add(number - self._base)
        self.short.usable = False

    def _drop_dead(self, rank: int) -> None:
        self._lose(rank, f"its MPI process (rank {rank}) died")
        self._expect_posted()
        self._sending.pop(rank, None)
        self._long.discard(rank)
        self._coming.pop(rank, None)

    def _lose(self, rank: int, why: str) -> None:
        if rank in self._gone:
            return
        self._gone.add(rank)
        self.short.usable = False
        if self._rank == 0 or rank == 0:
            self._arrivals.append(Left(rank and rank + self._base, why))

    def descriptors(self) -> Sequence[int]:
        """None; MPI has to be polled."""
        return ()

    def patience(self) -> float | None:
        """See `Endpoint.patience`: the longer nothing has arrived, the longer."""
        if self._arrivals:
            return 0
        now = time.monotonic()
        if self.busy:
            self.busy, self._since = False, now
            return 0
        idle = now - self._since
        if idle < SPIN or (idle < _LONG_WAY and (self._coming or self._long)):
            if idle > _ALONE:
                os.sched_yield()
            return 0
        self._missed = False  # one poll is enough now
        self._expect_posted()
        if self._processes:
            self._look_for_dead()
        if self._arrivals:
            return 0
        if self._coming or self.sending:
            return min(idle / 4, UNDER_WAY)
        if idle < LONG:
            return min(idle / 4, IDLE)
        return IDLE_LONG[idle > 1]

    def close(self) -> None:
        """See `Endpoint.close`: inform the others, and wait until all messages have arrived.

        MPICH does not end while messages were not received. Blocks for seconds at most.
        """
        if self._closed:
            return
        if self._unnoticed:
            with suppress(self._mpi.Exception):
                self._note_failures()
        self._abrupt = self._abrupt or not self._unnoticed <= self._dead
        if self._abrupt:
            remove(self.remains)
        self.short.usable = False
        if not self._announced:
            self._announced = True
            self._announce_leave()
        with suppress(EngineFailed):
            self.settled = self._settle()
        self._closed = True
        with suppress(self._mpi.Exception):
            self._inbox.close()

    def _announce_leave(self) -> None:
        for rank in range(1, self._ranks) if self._rank == 0 else (0,):
            self._expected[rank] = 1
        for rank, expected in enumerate(self._expected):
            if expected and rank not in self._dead | self._unnoticed:
                what = [_LEAVES_ABRUPTLY if self._abrupt else _LEAVES]
                self._post(rank, self._head_and(what), FRAME)

    def _settle(self) -> bool:
        """Receive and drop messages in transit to this rank; returns whether all ranks have left.

        All ranks inform each other to which ranks they may have sent something. Each waits for the
        last messages of its senders; a rank sends nothing after its last message. A rank that has
        them all continues to poll, because MPICH completes no message to a rank that only waits for
        the end of MPI.
        """
        if self._abrupt or self._dead:
            return self._wait_while(self._must_wait) and not self._abrupt
        try:
            if self._counted is None:
                self._counted = self._comm.Ireduce_scatter_block(self._expected, self._total)
            if not self._wait_for(self._counted):
                return False
            if not self._wait_while(lambda: not self._dead and self._incomplete()):
                return False
            if self._all_leave is None:
                self._all_leave = self._comm.Ibarrier()
            return self._wait_for(self._all_leave)
        except self._mpi.Exception:
            return True  # a rank has died; an MPI that survives this ignores remaining messages

    def _wait_for(self, together: Request) -> bool:
        """Wait until all ranks have reached a collective step."""
        return self._wait_while(lambda: not (together.Test() or self._dead))

    def _must_wait(self) -> bool:
        """Whether messages are in transit, or other ranks remain, which would end with rank 0."""
        others = range(1, self._ranks) if self._abrupt and not self._rank else ()
        self._expect_posted()
        return self.sending or not self._gone.union(self._unnoticed).issuperset(others)

    def _incomplete(self) -> bool:
        return self._have_left < self._total[0] or bool(
            self._posted or self._sending or self._coming
        )

    def _wait_while(self, condition: Callable[[], bool]) -> bool:
        while condition():
            if self._late():
                return False
        return True

    def _under_way(self) -> list[int]:
        """Counts that change while others receive or send."""
        sent, received = (sum(map(len, kept.values())) for kept in (self._sending, self._coming))
        return [self._have_left, sent, received]

    def _late(self) -> bool:
        """Drop what has arrived, and pause; returns whether it is too late to wait any longer.

        Agents stay as long as the controller, since an MPI may end all ranks if one ends.
        """
        self._expect_posted()
        before = self._under_way()
        received = self.receive() or self._under_way() != before
        time.sleep(self.patience() or 0)
        if self._rank and 0 not in self._gone:
            return False
        now = time.monotonic()
        self._last = self._last or now + STARTS
        if received or not self._deadline:
            self._deadline = min(self._last, now + LEAVES)
        return now > self._deadline or (self._abrupt and self._rank > 0)


def _is_small(parts: Sequence[Buffer]) -> bool:
    """Whether parts are sent together, as one message."""
    total = 0
    for part in parts:
        size = part.nbytes if type(part) is memoryview else len(part)
        total += size
        if size > _SMALL or total > _TOGETHER:
            return False
    return True
