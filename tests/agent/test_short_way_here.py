"""The short way between a program and slots of its own: what goes by it keeps its order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from encamp.agent import short_here
from encamp.agent.short_here import ShortWayHere
from encamp.cluster.cluster import SPAWNER, Cluster
from encamp.cluster.events import TaskExit, TaskResult
from encamp.loop import looking
from encamp.slot.calls import current_task
from encamp.wire.pickling import dump
from encamp.wire.protocol import Message, Received, encode

SOON = 30.0
LARGE = 100_000


def echo() -> str:
    """Send everything back, and a number after it if it is not "alone", until it is None."""
    me = current_task()
    answers = count()
    while (got := me.receive()) is not None and got.message is not None:
        me.send(SPAWNER, got.message)
        if got.message != "alone":
            me.send(SPAWNER, next(answers))
    return "done"


def answer_beside_others() -> None:
    """Answer every second message; after the others, send something to a service."""
    me = current_task()
    while (got := me.receive()) is not None and got.message is not None:
        other = Message(SPAWNER, me.id, port=1)
        me._slot.port.send([encode(other), *dump("for a service")])
        got = me.receive()
        me.send(SPAWNER, got and got.message)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster("local", slots=1)
    yield cluster
    cluster.close(cancel=True)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many messages went each way by the short way, however busy this machine is."""
    monkeypatch.setattr(looking, "LOOK_ON", 1.0)
    monkeypatch.setattr(short_here, "TURN_WITHIN", SOON)
    went = {"sent": 0, "received": 0}
    send, receive = ShortWayHere.send, ShortWayHere.receive

    def counted_send(self: ShortWayHere, *args: Any) -> bool:
        sent = send(self, *args)
        went["sent"] += sent
        return sent

    def counted_receive(self: ShortWayHere, *args: Any) -> Any:
        received = receive(self, *args)
        went["received"] += received is not None
        return received

    monkeypatch.setattr(ShortWayHere, "send", counted_send)
    monkeypatch.setattr(ShortWayHere, "receive", counted_receive)
    return went


def test_messages_and_events_come_in_their_order(cluster: Cluster, passed: dict[str, int]) -> None:
    task, number, answers = cluster.spawn(echo), 0, count()
    until = time.monotonic() + SOON
    while time.monotonic() < until and (number < 60 or not min(passed.values())):
        message = (number, b"x" * (LARGE if number % 7 == 0 else 10))
        cluster.send(task, message)
        if number % 5 == 0:
            cluster.send(task, "second")
        for one in (message, "second") if number % 5 == 0 else (message,):
            assert cluster.receive(SOON) == Received(task.id, one)
            assert cluster.receive(SOON, source=task) == Received(task.id, next(answers))
        cluster.send(task, "alone")
        assert cluster.receive(SOON) == Received(task.id, "alone")
        number += 1
    assert min(passed.values()) > 0
    cluster.send(task, None)
    events = [cluster.receive(SOON), cluster.receive(SOON)]
    result, ended = (event.message for event in events if event is not None)
    assert isinstance(result, TaskResult)
    assert (result.value, isinstance(ended, TaskExit)) == ("done", True)


def test_what_is_for_another_source_stays(cluster: Cluster, passed: dict[str, int]) -> None:
    task = cluster.spawn(echo)
    for word in ("a", "b", "c"):  # by now there is a line
        cluster.send(task, word)
        assert cluster.receive(SOON) == Received(task.id, word)
        assert cluster.receive(SOON) is not None
    cluster.send(task, "kept")
    assert cluster.receive(0.05, source=task.id + 1) is None
    assert cluster.receive(SOON) == Received(task.id, "kept")
    assert cluster.receive(SOON) == Received(task.id, 3)
    cluster.send(task, None)


def test_messages_that_are_not_for_the_program_itself_are_not_taken_for_it(
    cluster: Cluster, passed: dict[str, int]
) -> None:
    task = cluster.spawn(answer_beside_others)
    for number in range(30):
        cluster.send(task, "first")
        assert cluster.receive(0.01) is None
        cluster.send(task, number)
        assert cluster.receive(SOON) == Received(task.id, number)
    cluster.send(task, None)
    assert passed["sent"] > 0


def test_a_task_that_dies_is_told_of_though_its_messages_went_the_short_way(
    cluster: Cluster,
) -> None:
    def die_at_none() -> None:
        me = current_task()
        while (got := me.receive()) is not None and got.message is not None:
            me.send(SPAWNER, got.message)
        os._exit(3)

    task = cluster.spawn(die_at_none)
    for number in range(10):
        cluster.send(task, number)
        assert cluster.receive(SOON) == Received(task.id, number)
    cluster.send(task, None)
    event = cluster.receive(SOON)
    assert event is not None
    assert isinstance(event.message, TaskResult)
    assert "exit status 3" in str(event.message.value)
    cluster.send(task, "nobody")
    assert cluster.spawn(abs, -1).result() == 1
