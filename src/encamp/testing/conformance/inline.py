"""Slots that are their agent itself: the same messages, and clear errors for the rest."""

# ruff: noqa: S101

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import TaskResult
from encamp.cluster.task import SpawnedTask
from encamp.errors import UnsupportedByEngine
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    ReusedCluster,
    next_message,
    results,
)


class Inline(Bound):
    """Clusters made with ``inline=True``."""

    SLOTS = 2

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, cluster_of: ClusterOf, share: object) -> Iterator[ReusedCluster]:  # noqa: ARG003
        """A cluster whose agents run tasks themselves."""
        kept = ReusedCluster(lambda: cluster_of(cls.SLOTS, inline=True))
        yield kept
        kept.close()

    def test_inline_calls_give_results_and_errors(self, cluster: Cluster) -> None:
        tasks = cluster.spawn_many(work.add, [(number,) for number in range(500)])
        assert results(tasks) == list(range(1, 501))
        with pytest.raises(work.Odd) as caught:
            cluster.spawn(work.raise_odd, 3).result(PATIENCE)
        assert "in raise_odd" in str(caught.value.__cause__)

    @pytest.mark.parametrize("size", [0, 1000, 8 << 20])
    def test_inline_tasks_send_and_receive(self, cluster: Cluster, size: int) -> None:
        task = cluster.spawn(work.echo, 20)
        for number in range(20):
            cluster.send(task, bytes([number]) * size)
            assert next_message(cluster, task) == bytes([number]) * size
        assert task.result(PATIENCE) == 20

    @pytest.mark.parametrize("size", [4, 40_000, 4 << 20])
    def test_inline_tasks_talk_to_each_other(self, cluster: Cluster, size: int) -> None:
        answering, asking = cluster.spawn(work.echo, 20), cluster.spawn(work.ping, 20, size)
        cluster.send(asking, answering.id)
        assert results([answering, asking]) == [20, 20]

    def test_inline_tasks_that_both_send_much_first_do_not_block_each_other(
        self, cluster: Cluster
    ) -> None:
        tasks = [cluster.spawn(work.swap, 8 << 20, 4) for _ in range(2)]
        for task, other in zip(tasks, reversed(tasks), strict=True):
            cluster.send(task, other.id)
        assert results(tasks) == [[8 << 20] * 4] * 2

    def test_handlers_that_raise_leave_no_inline_message_half_sent(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.send_while_interrupted, 200)
        came: list[int] = []
        for got in _until_its_end(cluster, task):
            assert got == got[:1] * 300_000
            came.append(got[0])
        assert set(task.result(PATIENCE)) <= set(came)
        assert came == sorted(set(came))

    def test_handlers_of_inline_tasks_may_send(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.send_in_handlers, 0.5)
        sizes = list(map(len, _until_its_end(cluster, task)))
        assert len(sizes) == task.result(PATIENCE)
        assert sizes.count(200_000) == (len(sizes) + 1) // 2

    def test_an_inline_task_waits_no_longer_than_it_wants(self, cluster: Cluster) -> None:
        nothing, seconds, _ = cluster.spawn(work.timed_out, 0.3).result(PATIENCE)
        assert nothing
        assert 0.3 <= seconds < 0.8

    def test_what_inline_slots_cannot_do_is_refused_at_once(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.gated, work.add, 1)
        assert next_message(cluster, task) == "ready"
        with pytest.raises(UnsupportedByEngine):
            task.kill()
        for options in ({"time_limit": 1.0}, {"fresh": True}):
            with pytest.raises(UnsupportedByEngine):
                cluster.spawn_many(work.add, [(1,)], **options)
        cluster.send(task, "go")
        assert task.result(PATIENCE) == 2

    def test_an_inline_task_that_waits_ends_with_the_cluster(self, cluster_of: ClusterOf) -> None:
        cluster = cluster_of(1, inline=True)
        task = cluster.spawn(work.echo, 1)
        cluster.send(task, "hello")
        assert next_message(cluster, task) == "hello"
        cluster.spawn(work.echo, 1)
        cluster.close(cancel=True)


def _until_its_end(cluster: Cluster, task: SpawnedTask) -> Iterator[Any]:
    """The messages of a task, until its result."""
    while (got := cluster.receive(PATIENCE, source=task)) is not None:
        if isinstance(got.message, TaskResult):
            return
        yield got.message
