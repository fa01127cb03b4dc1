"""Messages to a task wait until it starts, keep their order, and are received once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from encamp import Cluster
from encamp.cluster import message_queue
from encamp.cluster.message_queue import MessageQueue
from encamp.cluster.records import HostRecord, SlotRecord, TaskRecord
from encamp.cluster.sent_functions import Function
from encamp.cluster.spawn_options import SpawnOptions
from encamp.wire.outbox import Outbox
from encamp.wire.pickling import dump, load
from encamp.wire.protocol import NOWHERE, SPAWNER, Message, unbundled


class Post:
    """The mail of a controller with some tasks, and what it has sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[Any]]] = []
        end: Any = SimpleNamespace(send=lambda to, parts: self.sent.append((to, list(parts))))
        self.tasks: dict[int, TaskRecord] = {}
        self.mail = MessageQueue(self.tasks, Outbox(end))

    def task(self, number: int) -> TaskRecord:
        options, canceller = SpawnOptions().checked(), SimpleNamespace()
        function = Function(1, len, b"", by_value=False)
        self.tasks[number] = TaskRecord(number, canceller, function, (), options)  # type: ignore[arg-type]
        return self.tasks[number]

    def begin(self, task: TaskRecord, agent: int = 3, slot: int = 5) -> SlotRecord:
        record = SlotRecord(agent, slot, HostRecord("host", 1, 1, ()))
        task.sent(record)
        task.begins()
        self.mail.begins(task)
        return record

    def came(self) -> list[tuple[int, int, int, int, Any]]:
        """Agent, slot, receiver, sender and value of what went out."""
        found = []
        for agent, frame in self.sent:
            for envelope, parts in unbundled(frame):
                assert isinstance(envelope, Message)
                value = load(parts[1:])
                found.append((agent, envelope.slot, envelope.to, envelope.sender, value))
        return found


@pytest.fixture
def post() -> Post:
    return Post()


def test_messages_wait_for_task_start_in_order(post: Post) -> None:
    task = post.task(1)
    for number in range(3):
        post.mail.send(1, 7, dump(number))
        assert not post.mail.is_sent_at_once(1)
    assert post.came() == []
    post.begin(task)
    assert post.mail.is_sent_at_once(1)
    post.mail.send(1, SPAWNER, dump("last"))
    assert [value for *_, value in post.came()] == [0, 1, 2, "last"]
    assert {(agent, slot, to) for agent, slot, to, *_ in post.came()} == {(3, 5, 1)}
    assert [sender for _, _, _, sender, _ in post.came()] == [7, 7, 7, SPAWNER]


def test_messages_for_starting_task_keep_their_order(post: Post) -> None:
    task = post.task(1)
    post.mail.send(1, 7, dump("first"))
    task.sent(SlotRecord(3, 5, HostRecord("host", 1, 1, ())))
    task.begins()
    assert not post.mail.is_sent_at_once(1)
    post.mail.send(1, 7, dump("second"))
    assert post.came() == []
    post.mail.begins(task)
    assert post.mail.is_sent_at_once(1)
    assert [value for *_, value in post.came()] == ["first", "second"]


def test_messages_to_ended_task_are_dropped(post: Post) -> None:
    post.mail.send(9, 7, dump("nobody"))
    task = post.task(1)
    post.mail.send(1, 7, dump("early"))
    post.mail.forget(task)
    post.begin(task)
    assert post.came() == []
    del post.tasks[1]
    post.mail.send(1, 7, dump("late"))
    assert post.came() == []


def test_each_task_gets_its_own(post: Post) -> None:
    for number in (1, 2):
        post.mail.send(post.task(number).id, 7, dump(number))
    post.begin(post.tasks[2], agent=4)
    assert post.came() == [(4, 5, 2, 7, 2)]
    post.begin(post.tasks[1])
    assert post.came()[1:] == [(3, 5, 1, 7, 1)]


def test_slot_is_known_only_for_running_task(post: Post) -> None:
    task = post.task(1)
    assert post.mail.slot_of(1) == post.mail.slot_of(9) == (NOWHERE, NOWHERE, 0)
    post.begin(task).runs = 8
    assert post.mail.slot_of(1) == (3, 5, 8)
    task.waits_again()
    assert post.mail.slot_of(1) == (NOWHERE, NOWHERE, 0)


def test_messages_are_taken_once_in_their_order_or_by_their_sender(post: Post) -> None:
    for sender, value in [(1, "a"), (2, "b"), (1, "c"), (3, "d"), (2, "e")]:
        post.mail.put(sender, dump(value))
    taken = [post.mail.take(source) for source in (2, None, 3, 3, 1, 1, None, None)]
    values = [got and (got.source, got.message) for got in taken]
    assert values == [(2, "b"), (1, "a"), (3, "d"), None, (1, "c"), None, (2, "e"), None]


def test_waiter_is_called_once_on_arrival(post: Post) -> None:
    called: list[str] = []

    def wake(name: str) -> Any:
        return lambda: called.append(name)

    kept, gone = wake("kept"), wake("gone")
    post.mail.call_on_arrival(kept)
    post.mail.call_on_arrival(gone)
    post.mail.cancel_call(gone)
    post.mail.cancel_call(gone)
    post.mail.call_waiters(failed=False)
    assert called == []
    post.mail.put(1, dump("news"))
    post.mail.call_waiters(failed=False)
    post.mail.call_waiters(failed=False)
    assert called == ["kept"]
    post.mail.call_on_arrival(kept)
    post.mail.call_waiters(failed=False)
    assert called == ["kept"], "there is no news since"
    post.mail.call_waiters(failed=True)
    assert called == ["kept", "kept"]
    post.mail.call_waiters(failed=True)
    assert called == ["kept", "kept"]


@pytest.mark.parametrize("received", [False, True])
def test_results_that_nothing_receives_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, received: bool
) -> None:
    monkeypatch.setattr(message_queue, "MUCH", 500_000)
    with Cluster(slots=1) as cluster:
        for size in (10, 300_000, 300_000, 300_000, 300_000):
            assert cluster.spawn(bytes, size).result(30) == bytes(size)
            assert cluster.spawn(bytes, 600_000, notify=False).result(30) == bytes(600_000)
            while received and cluster.receive(0) is not None:
                pass
    warned = [str(one.message) for one in recwarn if "notify=False" in str(one.message)]
    assert len(warned) == (0 if received else 1)
    assert all("keeps results of 586.0 KiB" in text for text in warned)
