"""The messages of one turn are sent in one frame of bounded size, in order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from encamp.wire import outbox
from encamp.wire.frames import MOST_PARTS
from encamp.wire.outbox import Outbox
from encamp.wire.protocol import Bundle, Ping, decode, encode, unbundled
from encamp.wire.seal import Seal

Box = tuple[Outbox, list[tuple[int, list[Any]]]]


@pytest.fixture
def box() -> Box:
    """An outbox, and the frames that have left it."""
    sent: list[tuple[int, list[Any]]] = []

    def send(to: int, parts: Sequence[Any]) -> None:
        sent.append((to, list(parts)))

    end: Any = SimpleNamespace(send=send)
    return Outbox(end), sent


def ping(number: int, size: int = 0) -> list[Any]:
    return [encode(Ping(number)), bytes(size)] if size else [encode(Ping(number))]


def numbers(frames: list[tuple[int, list[Any]]], to: int) -> list[int]:
    """The pings that one receiver gets, in their order."""
    mine = [parts for receiver, parts in frames if receiver == to]
    return [envelope.ticket for parts in mine for envelope, _ in unbundled(parts)]


def test_flush_sends_one_frame_per_agent(box: Box) -> None:
    out, sent = box
    for number in range(3):
        out.post(1, ping(number))
    out.post(2, ping(7, size=3))
    assert sent == []
    out.flush()
    assert [to for to, _ in sent] == [1, 2]
    assert numbers(sent, 1) == [0, 1, 2]
    assert sent[1][1] == ping(7, size=3), "one message alone needs no bundle"
    out.flush()
    assert len(sent) == 2


def test_immediate_send_follows_posted_messages(box: Box) -> None:
    out, sent = box
    out.post(1, ping(1))
    out.post(2, ping(2))
    out.send(1, ping(3))
    assert numbers(sent, 1) == [1, 3]
    assert numbers(sent, 2) == []
    out.send(1, ping(4))
    assert numbers(sent, 1) == [1, 3, 4]
    out.flush()
    assert numbers(sent, 2) == [2]
    assert len(sent) == 3


def test_a_frame_is_closed_when_it_is_large_enough(box: Box) -> None:
    out, sent = box
    size = 100_000
    for number in range(25):
        out.post(1, ping(number, size))
    most = outbox._BUNDLE // size + 1
    assert [len(unbundled(parts)) for _, parts in sent] == [most, most]
    out.send(1, ping(25, outbox._BUNDLE))
    assert numbers(sent, 1) == list(range(26))
    assert out.waiting == {}


def test_a_frame_never_has_more_parts_than_can_travel(box: Box) -> None:
    out, sent = box
    many = MOST_PARTS // 64 - 2
    for number in range(200):
        out.post(1, [encode(Ping(number)), *[b""] * many])
    for number in range(200, 3000):
        out.post(1, ping(number))
    out.flush()
    assert numbers(sent, 1) == list(range(3000))
    assert max(len(parts) for _, parts in sent) <= MOST_PARTS
    assert len(sent) < 300


@pytest.mark.parametrize("seed", range(5))
def test_messages_are_ordered_and_delivered_once(box: Box, seed: int) -> None:
    out, sent = box
    rng, gone = random.Random(seed), {1: 0, 2: 0}
    for _ in range(500):
        to = rng.choice([1, 2])
        act = rng.choice([out.post, out.post, out.post, out.send])
        act(to, ping(gone[to], rng.choice([0, 5, 300_000])))
        gone[to] += 1
        if rng.random() < 0.1:
            out.flush()
    out.flush()
    for to, count in gone.items():
        assert numbers(sent, to) == list(range(count))


def test_every_frame_is_sealed_for_its_receiver(box: Box) -> None:
    out, sent = box
    key = bytes(range(32))
    out.seal = Seal(key, 0)
    out.send(1, ping(1))
    out.post(1, ping(2))
    out.post(1, ping(3))
    out.post(2, ping(4))
    out.flush()
    ends = {to: Seal(key, to) for to in (1, 2)}
    opened = [(to, ends[to].open(0, parts)) for to, parts in sent]
    assert isinstance(decode(opened[1][1][0]), Bundle)
    assert numbers(opened, 1) == [1, 2, 3]
    assert numbers(opened, 2) == [4]
