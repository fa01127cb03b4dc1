"""Messages arrive whole and in order, however the stream is fragmented; others are refused."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encamp.errors import BadFrame
from encamp.wire.frames import LONGEST, MOST_PARTS, Buffer, Parts, Reader, Writer, changeable, head

MESSAGES = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=8)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with_two = socket.socketpair()
    for end in with_two:
        end.setblocking(False)
    with with_two[0], with_two[1]:
        yield with_two


def bytes_of(messages: Sequence[Sequence[Buffer]]) -> bytes:
    return b"".join(head(parts) + b"".join(map(bytes, parts)) for parts in messages)


def same(messages: Sequence[Sequence[Buffer]]) -> list[list[bytes]]:
    return [[bytes(part) for part in parts] for parts in messages]


def carry(writer: Writer, reader: Reader, messages: Sequence[Sequence[Buffer]]) -> list[Parts]:
    """Write and read in turn, so that nothing waits for room."""
    got: list[Parts] = []
    for parts in messages:
        writer.send(parts)
        got += reader.read()
    while writer.waiting or len(got) < len(messages):
        writer.flush()
        got += reader.read()
    return got


@given(messages=MESSAGES, seed=st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=150)
def test_messages_survive_any_fragmentation(messages: list[list[bytes]], seed: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        reader, data, cut = Reader(far), bytes_of(messages), random.Random(seed)
        got: list[Parts] = []
        while data:
            count = cut.choice([1, 2, 5, 17, 1000])
            near.sendall(data[:count])
            data = data[count:]
            got += reader.read()
    assert same(got) == messages


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 262_143, 262_144, 1 << 20, 10 << 20])
def test_parts_of_any_size_go_through_a_socket_that_takes_less(
    ends: tuple[socket.socket, socket.socket], size: int
) -> None:
    big = random.Random(size).randbytes(size)
    messages = [[b"before"], [b"envelope", big, b"", big[:7]], [b""], [b"after", b"\0"]]
    got = carry(Writer(ends[0]), Reader(ends[1]), messages)
    assert same(got) == same(messages)


@pytest.mark.parametrize("part", [b"short", memoryview(b"short")])
def test_short_messages_that_a_full_socket_refuses_are_kept_in_order(
    ends: tuple[socket.socket, socket.socket], part: Buffer
) -> None:
    writer, reader = Writer(ends[0]), Reader(ends[1])
    count = 5000
    for number in range(count):
        writer.send([b"%d" % number, part])
    assert writer.waiting, "the first of these was refused as a whole"
    got: list[Parts] = []
    while writer.waiting or select.select([ends[1]], [], [], 0)[0]:
        writer.flush()
        got += reader.read()
    assert same(got) == [[b"%d" % number, b"short"] for number in range(count)]


def test_what_waits_is_as_it_was_when_its_sender_took_it_back(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    writer, reader = Writer(ends[0]), Reader(ends[1])
    array = bytearray(b"x" * (1 << 20))
    writer.send([b"array", array])
    assert writer.waiting
    writer.own()
    array[:] = b"y" * len(array)
    got: list[Parts] = []
    while not got:
        writer.flush()
        got += reader.read()
    assert same(got) == [[b"array", b"x" * (1 << 20)]]


def test_frame_takes_maximum_number_of_parts_and_refuses_more(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    parts: Parts = [b"x"] * MOST_PARTS
    assert carry(Writer(ends[0]), Reader(ends[1]), [parts, [b"y"]]) == [parts, [b"y"]]
    for count in (0, MOST_PARTS + 1):
        with pytest.raises(BadFrame, match=f"has {count} parts"):
            head([b"x"] * count)


def test_views_of_other_items_than_bytes_travel_as_their_bytes(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    numbers = memoryview(struct.pack("<6d", *range(6))).cast("d")
    grid = numbers.cast("B").cast("d", (2, 3))
    writer, messages = Writer(ends[0]), [[b"x" * (1 << 20)], [numbers, grid, numbers[:0]]]
    got = carry(writer, Reader(ends[1]), messages)
    assert same(got[1:]) == [[bytes(numbers), bytes(grid), b""]]


def test_big_parts_are_received_where_they_stay(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    size = 32 << 20
    message: list[Parts] = [[b"envelope", bytes(size)]]
    tracemalloc.start()
    try:
        got = carry(Writer(ends[0]), Reader(ends[1]), message)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(got[0][1]) == size
    assert peak < size + (4 << 20)


class _Endless(socket.socket):
    """A socket with something to read at all times: messages of 8 KiB."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        one = bytes_of([[b"x" * (8192 - 12)]])
        return one * (size // len(one))


def test_a_sender_that_never_stops_does_not_keep_the_reader() -> None:
    with _Endless() as endless:
        assert Reader(endless).read()


def _all_of(reader: Reader) -> list[Parts]:
    """What comes before the stream's end, which three reads must find."""
    got: list[Parts] = []
    for _ in range(3):
        try:
            got += reader.read()
        except EOFError:
            return got
    raise AssertionError("the end was not found")


@given(messages=MESSAGES.filter(bool), data=st.data())
@settings(deadline=None, max_examples=100)
def test_a_stream_that_ends_within_a_message_gives_those_before_it_and_its_end(
    messages: list[list[bytes]], data: st.DataObject
) -> None:
    stream = bytes_of(messages)
    last = len(bytes_of(messages[-1:]))
    cut = data.draw(st.integers(len(stream) - last, len(stream) - 1))
    near, far = socket.socketpair()
    with far:
        far.setblocking(False)
        with near:
            near.sendall(stream[:cut])
        reader = Reader(far)
        got = _all_of(reader)
    assert same(got) == messages[:-1]


@given(noise=st.binary(min_size=4, max_size=400), before=MESSAGES)
@settings(deadline=None, max_examples=200)
def test_noise_is_refused_or_waited_for_and_never_more_is_kept_than_came(
    noise: bytes, before: list[list[bytes]]
) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        near.sendall(bytes_of(before) + noise)
        reader = Reader(far, longest=1 << 16)
        got: list[Parts] = []
        try:
            got = reader.read()
        except BadFrame:
            return
        assert noise.startswith(b"eC")
        assert same(got)[: len(before)] == before


@given(messages=MESSAGES.filter(bool), data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_changed_byte_raises_nothing_but_bad_frame(
    messages: list[list[bytes]], data: st.DataObject
) -> None:
    stream = bytearray(bytes_of(messages))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= data.draw(st.integers(1, 255))
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        near.sendall(stream)
        with suppress(BadFrame):
            Reader(far, longest=1 << 20).read()


@pytest.mark.parametrize(
    ("sizes", "longest"),
    [
        ([2 << 30], 1 << 20),
        ([1 << 19, 1 << 19, 1], 1 << 20),
        ([LONGEST + 1], LONGEST),
        ([(1 << 64) - 1] * 3, LONGEST),
        ([LONGEST - 1], LONGEST),
    ],
    ids=["2 GiB", "a sum", "beyond the longest", "overflow", "beyond the memory"],
)
def test_huge_lengths_are_refused_before_there_is_room_for_them(
    ends: tuple[socket.socket, socket.socket], sizes: list[int], longest: int
) -> None:
    ends[0].sendall(struct.pack(f"<2sH{len(sizes)}Q", b"eC", len(sizes), *sizes) + b"x" * 100)
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            Reader(ends[1], longest=longest).read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_message_of_no_parts_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(b"eC\0\0")
    with pytest.raises(BadFrame, match="does not begin as a frame does"):
        Reader(ends[1]).read()


def test_closed_receiver_is_reported(ends: tuple[socket.socket, socket.socket]) -> None:
    writer = Writer(ends[0])
    writer.send([b"x" * (4 << 20)])
    assert writer.waiting
    ends[1].close()
    with pytest.raises(BrokenPipeError):
        writer.flush()


def test_descriptors_arrive_with_message_and_are_not_inherited(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    writer, reader = Writer(ends[0]), Reader(ends[1], descriptors=True)
    pipes = [os.pipe() for _ in range(6)]
    got: list[Parts] = []
    for number, (_, write) in enumerate(pipes):
        writer.send([b"%d" % number, b"y" * 300_000 * (number % 2)], [write])
        writer.send([b"none"])
    assert writer.waiting
    while writer.waiting or len(got) < 12:
        writer.flush()
        got += reader.read()
    assert [bytes(parts[0]) for parts in got[::2]] == [b"%d" % number for number in range(6)]
    assert len(reader.received) == 6
    for (read, _), received in zip(pipes, reader.received, strict=True):
        os.write(received, b"through")
        assert os.read(read, 7) == b"through"
        assert not os.get_inheritable(received)
        for descriptor in (read, received):
            os.close(descriptor)


def test_dropped_messages_leak_no_descriptors(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    writer = Writer(ends[0])
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        writer.send([b"x" * (1 << 20)], [os.dup(ends[1].fileno())])
    assert writer.waiting
    writer.close()
    assert not writer.waiting
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_only_bytes_and_views_of_bytes_cannot_be_changed() -> None:
    assert not changeable([b"one", memoryview(b"two")[1:]])
    for part in (bytearray(1), memoryview(bytearray(1)), memoryview(bytearray(1)).toreadonly()):
        assert changeable([b"one", part])
