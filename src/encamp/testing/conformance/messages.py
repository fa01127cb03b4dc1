"""Messages: whole, in order, to the right receiver; waiting for them costs nothing."""

# ruff: noqa: S101

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    gates,
    next_message,
    results,
    sender_and_message,
)
from encamp.testing.waiting import until

MIB = 1 << 20
LARGE = 40 * MIB
"""More than any engine lets be under way at once."""


def pairs(cluster: Cluster) -> list[tuple[str, str]]:
    """The names of two hosts whose tasks exchange messages: once one host, once two if possible."""
    hosts = cluster.hosts()
    with_two = next(host for host in hosts if host.slots > 1)
    found = [(with_two.name, with_two.name), (hosts[0].name, hosts[-1].name)]
    return list(dict.fromkeys(found))


class Messages(Bound):
    """Between the spawner and tasks, and between tasks."""

    def test_messages_keep_their_order_both_ways(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.echo, 2000)
        for number in range(2000):
            cluster.send(task, number)
        assert [next_message(cluster, task) for _ in range(2000)] == list(range(2000))

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65_536, MIB, LARGE])
    def test_bytes_of_any_size_come_as_they_went(self, cluster: Cluster, size: int) -> None:
        task = cluster.spawn(work.echo, 1)
        sent = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        cluster.send(task, sent)
        assert next_message(cluster, task) == sent

    @pytest.mark.parametrize("size", [0, 1, 1000, LARGE // 8])
    def test_arrays_come_as_they_went_and_can_be_written_to(
        self, cluster: Cluster, size: int
    ) -> None:
        numpy = pytest.importorskip("numpy")
        task = cluster.spawn(work.echo, 1)
        sent = (
            numpy.arange(size, dtype="<f8").reshape(2, -1, order="F" if size > 1 else "C")
            if (size % 2 == 0)
            else numpy.arange(size)
        )
        cluster.send(task, {"array": sent, "view": sent[..., ::3]})
        got = next_message(cluster, task)
        assert numpy.array_equal(got["array"], sent)
        assert numpy.array_equal(got["view"], sent[..., ::3])
        assert got["array"].dtype == sent.dtype
        got["array"][...] = 1

    def test_very_many_arrays_in_one_message_come_as_they_went(self, cluster: Cluster) -> None:
        numpy = pytest.importorskip("numpy")
        task = cluster.spawn(work.echo, 1)
        cluster.send(task, [numpy.full(520, number) for number in range(3000)])
        got = next_message(cluster, task)
        assert [int(array[-1]) for array in got] == list(range(3000))

    def test_what_was_sent_may_be_changed_at_once(self, cluster: Cluster) -> None:
        numpy = pytest.importorskip("numpy")
        with gates(cluster, 1, work.collect, 1) as (task,):
            sent = numpy.ones(4 * MIB)
            cluster.send(task, "go")
            cluster.send(task, sent)
            sent[:] = 0
        ((_, got),) = task.result(PATIENCE)
        assert (got == 1).all()
        sender = cluster.spawn(work.changed_after_sending, numpy.ones(4 * MIB))
        assert (next_message(cluster, sender) == 1).all()

    def test_what_cannot_be_pickled_is_refused_where_it_is_sent(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.echo, 1)
        with pytest.raises(Exception, match="pickle"):
            cluster.send(task, threading.Lock())
        cluster.send(task, "good")
        assert next_message(cluster, task) == "good"

    def test_many_senders_are_all_heard_each_in_its_order(self, cluster: Cluster) -> None:
        tasks = cluster.spawn_many(work.send_numbers, [(0, 500)] * cluster.slots)
        found: dict[int, list[int]] = {task.id: [] for task in tasks}
        for _ in range(500 * len(tasks)):
            source, (sender, number) = sender_and_message(cluster)
            assert source == sender
            found[source].append(number)
        assert all(numbers == list(range(500)) for numbers in found.values())

    def test_many_tasks_send_to_one_task(self, cluster: Cluster) -> None:
        senders = cluster.slots - 1
        target = cluster.spawn(work.collect, 300 * senders)
        cluster.spawn_many(work.send_numbers, [(target.id, 300)] * senders)
        found: dict[int, list[int]] = {}
        for source, (sender, number) in target.result(PATIENCE):
            assert source == sender
            found.setdefault(source, []).append(number)
        assert [numbers == list(range(300)) for numbers in found.values()] == [True] * senders

    @pytest.mark.parametrize(("size", "times"), [(4, 20), (40_000, 20), (4 * MIB, 6)])
    def test_tasks_talk_to_each_other(self, cluster: Cluster, size: int, times: int) -> None:
        for first, second in pairs(cluster):
            answering = cluster.spawn(work.echo, times, on=first)
            asking = cluster.spawn(work.ping, times, size, on=second)
            cluster.send(asking, answering.id)
            assert asking.result(PATIENCE) == times
            assert answering.result(PATIENCE) == times

    def test_no_message_is_lost_however_soon_it_is_sent(self, cluster: Cluster) -> None:
        for _ in range(15):
            answering, *others = cluster.spawn_many(work.echo, [(1,)] * (cluster.slots // 2))
            asking = cluster.spawn_many(work.ping, [(1, 4)] * (cluster.slots // 2))
            for task, other in zip(asking, [answering, *others], strict=True):
                cluster.send(task, other.id)
            assert results(asking) == [1] * len(asking)

    def test_two_tasks_that_both_send_much_first_do_not_block_each_other(
        self, cluster: Cluster
    ) -> None:
        for ends in pairs(cluster):
            tasks = [cluster.spawn(work.swap, 8 * MIB, 4, on=end) for end in ends]
            for task, other in zip(tasks, reversed(tasks), strict=True):
                cluster.send(task, other.id)
            assert results(tasks) == [[8 * MIB] * 4] * 2

    def test_spawner_and_task_that_both_send_much_first_do_not_block_each_other(
        self, cluster: Cluster
    ) -> None:
        task = cluster.spawn(work.flood, 8 * MIB, 4)
        for number in range(4):
            cluster.send(task, bytes([number]) * 8 * MIB)
        assert [next_message(cluster, task)[:1] for _ in range(4)] == [b"\0", b"\1", b"\2", b"\3"]
        assert task.result(PATIENCE) == [8 * MIB] * 4

    def test_a_message_waits_for_a_task_that_has_not_begun(self, cluster: Cluster) -> None:
        with gates(cluster, cluster.slots, work.pid):
            waiting = cluster.spawn_many(work.collect, [(3,)] * 2 * cluster.slots)
            for task in waiting:
                for number in range(3):
                    cluster.send(task, (task.id, number))
        for task in waiting:
            assert [message for _, message in task.result(PATIENCE)] == [
                (task.id, number) for number in range(3)
            ]

    def test_a_task_may_write_to_one_that_has_not_begun(self, cluster: Cluster) -> None:
        with gates(cluster, cluster.slots - 1, work.pid):
            blocker = cluster.spawn(work.gated, work.pid)
            assert next_message(cluster, blocker) == "ready"
            waiting = cluster.spawn(work.collect, 10)
            cluster.send(blocker, "go")
            until(blocker.done)
            cluster.spawn(work.send_numbers, waiting.id, 10)
        assert [message[1] for _, message in waiting.result(PATIENCE)] == list(range(10))

    def test_message_to_ended_task_is_dropped(self, cluster: Cluster) -> None:
        ended = cluster.spawn(work.pid)
        ended.result(PATIENCE)
        cluster.send(ended, "too late")
        assert cluster.spawn(work.send_numbers, ended.id, 50).result(PATIENCE) == 50
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2

    def test_a_message_sent_before_the_end_comes_before_the_result(self, cluster: Cluster) -> None:
        for _ in range(20):
            task = cluster.spawn(work.send_numbers, 0, 1)
            kinds = []
            for _ in range(3):
                got = cluster.receive(PATIENCE, source=task)
                kinds.append(type(got and got.message).__name__)
            assert kinds == ["tuple", "TaskResult", "TaskExit"]

    @pytest.mark.parametrize("timeout", [0.0, 1.0])
    def test_receiving_with_a_timeout_ends_and_waits_idly(
        self, cluster: Cluster, timeout: float
    ) -> None:
        began, cpu = time.monotonic(), time.thread_time()
        assert cluster.receive(timeout) is None
        seconds, cpu = time.monotonic() - began, time.thread_time() - cpu
        assert not timeout or cpu < seconds / 4  # a loop that is busy takes all of it
        nothing, seconds, cpu = cluster.spawn(work.timed_out, timeout).result(PATIENCE)
        assert nothing
        assert not timeout or cpu < seconds / 4

    def test_a_task_that_waits_for_a_message_uses_no_cpu(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.cpu_of_waiting)
        assert next_message(cluster, task) == "ready"
        assert cluster.receive(0.5, source=task) is None
        cluster.send(task, "go")
        assert task.result(PATIENCE) < 0.05

    def test_a_waiting_receive_is_woken(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.gated, work.send_numbers, 0, 1)
        assert next_message(cluster, task) == "ready"
        threading.Timer(0.2, cluster.send, (task, "go")).start()
        assert cluster.receive(None) is not None

    def test_a_source_filter_keeps_the_others_in_order(self, cluster: Cluster) -> None:
        tasks = cluster.spawn_many(work.send_numbers, [(0, 5)] * 2, notify=False)
        results(tasks)
        last = [cluster.receive(PATIENCE, source=tasks[1]) for _ in range(5)]
        assert [got and got.message[1] for got in last] == list(range(5))
        assert cluster.receive(0.05, source=tasks[1]) is None
        rest = [cluster.receive(PATIENCE) for _ in range(5)]
        assert [got and got.message for got in rest] == [(tasks[0].id, n) for n in range(5)]

    def test_a_source_filter_in_a_task_keeps_the_others_in_order(self, cluster: Cluster) -> None:
        chosen = cluster.spawn(work.picks)
        first, second = (cluster.spawn(work.gated, work.send_numbers, chosen.id, 1) for _ in "ab")
        assert [next_message(cluster, task) for task in (first, second)] == ["ready", "ready"]
        for task in (first, second):
            cluster.send(task, "go")
            task.result(PATIENCE)
        cluster.send(chosen, second.id)
        assert chosen.result(PATIENCE) == [second.id, first.id]

    def test_two_threads_may_wait_at_once_for_different_tasks(self, cluster: Cluster) -> None:
        tasks = [cluster.spawn(work.echo, 50) for _ in range(2)]
        found: dict[int, list[Any]] = {}

        def listen(number: int) -> None:
            found[number] = [next_message(cluster, tasks[number]) for _ in range(50)]

        threads = [threading.Thread(target=listen, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for number in range(50):
            for task in tasks:
                cluster.send(task, number)
        for thread in threads:
            thread.join(PATIENCE)
        assert found == {0: list(range(50)), 1: list(range(50))}
