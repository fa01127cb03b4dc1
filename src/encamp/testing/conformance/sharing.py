"""Nothing is shared by accident: a receiver gets its own copy, even between threads."""

# ruff: noqa: S101

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.storage.shared_folders import portable
from encamp.testing import work
from encamp.testing.conformance.bound import (
    PATIENCE,
    Bound,
    ClusterOf,
    ReusedCluster,
    gates,
    next_message,
    sender_and_message,
)
from encamp.testing.waiting import until

SIZES = [(1000, 30), (50_000, 30), (400_000, 10)]
"""Numbers in an array: in small parts, in big ones, and more than a socket takes at once; and how
often it is sent."""


class Sharing(Bound):
    """Between a program and its tasks, and between tasks, in slots of any kind."""

    @pytest.fixture(autouse=True)
    def numpy(self) -> None:
        """Arrays are what is sent without a copy."""
        pytest.importorskip("numpy")

    @pytest.mark.parametrize(("size", "times"), SIZES)
    def test_a_task_may_fill_an_array_anew_that_it_has_sent(
        self, cluster: Cluster, size: int, times: int
    ) -> None:
        task = cluster.spawn(work.refill, 0, times, size)
        task.result(PATIENCE)
        assert [work.whole(next_message(cluster, task)) for _ in range(times)] == list(range(times))

    @pytest.mark.parametrize(("size", "times"), SIZES)
    def test_a_task_may_do_so_whatever_task_it_sends_to(
        self, cluster: Cluster, size: int, times: int
    ) -> None:
        target = cluster.spawn(work.fillings, times)
        sender = cluster.spawn(work.refill, target.id, times, size)
        assert target.result(PATIENCE) == list(range(times))
        sender.result(PATIENCE)
        itself = cluster.spawn(work.refill, -1, times, size)
        assert next_message(cluster, itself) == list(range(times))
        itself.result(PATIENCE)

    @pytest.mark.parametrize(("size", "times"), SIZES)
    def test_a_program_may_do_so_whether_the_task_has_begun(
        self, cluster: Cluster, size: int, times: int
    ) -> None:
        import numpy

        array = numpy.empty(size)
        with gates(cluster, cluster.slots, work.pid):
            late = cluster.spawn(work.fillings, times)
            for number in range(times):
                array[:] = number
                cluster.send(late, array)
        assert late.result(PATIENCE) == list(range(times))
        task = cluster.spawn(work.gated, work.fillings, times)
        assert next_message(cluster, task) == "ready"
        for number in ["go", *range(times)]:
            array[:] = number if number != "go" else 0
            cluster.send(task, array if number != "go" else number)
        assert task.result(PATIENCE) == list(range(times))

    @pytest.mark.parametrize(("size", "times"), SIZES)
    def test_results_that_are_the_same_array_are_not_the_same(
        self, cluster: Cluster, size: int, times: int
    ) -> None:
        tasks = cluster.spawn_many(work.lasting, [(number, size) for number in range(times)])
        assert [work.whole(task.result(PATIENCE)) for task in tasks] == list(range(times))

    @pytest.mark.parametrize("size", [0, 500_000])
    def test_threads_of_a_task_send_and_receive(self, cluster: Cluster, size: int) -> None:
        count = 20 if size else 100
        task = cluster.spawn(work.chorus, 4, count, size)
        turns: dict[int, list[int]] = {}
        for _ in range(4 * count):
            number, turn, data = next_message(cluster, task)
            assert data == bytes(size)
            turns.setdefault(number, []).append(turn)
            cluster.send(task, (number, turn))
        assert task.result(PATIENCE) == []
        assert all(turns[number] == list(range(count)) for number in range(4))

    def test_threads_that_a_task_leaves_cannot_speak_for_the_next(
        self, cluster: Cluster, marks: Path
    ) -> None:
        gate = marks / "gate"
        cluster.spawn(work.leave_speaker, portable(gate), notify=False).result(PATIENCE)
        tasks = [
            cluster.spawn(work.gated, work.fillings, 0, notify=False) for _ in range(cluster.slots)
        ]
        assert [next_message(cluster, task) for task in tasks] == ["ready"] * len(tasks)
        gate.touch()
        marked = [marks / name for name in ("listened", "named", "spoken")]
        until(lambda: marked[1].exists() and marked[2].exists())
        for task in tasks:
            cluster.send(task, "go")
            assert task.result(PATIENCE) == []
        assert [self._outcome(file) for file in marked[1:]] == ["has ended"] * 2
        assert cluster.receive(0) is None

    @staticmethod
    def _outcome(file: Path) -> str:
        return (
            "has ended"
            if "has ended" in file.read_text(encoding="utf-8")
            else file.read_text(encoding="utf-8")
        )

    def test_threads_of_a_program_spawn_send_and_receive(self, cluster: Cluster) -> None:
        task = cluster.spawn(work.echo, 80, notify=False)
        found, wrong = list[tuple[int, Any]](), list[int]()

        def speak(number: int) -> None:
            for turn in range(20):
                cluster.send(task, (number, turn))
                if cluster.spawn(work.add, turn, notify=False).result(PATIENCE) != turn + 1:
                    wrong.append(turn)

        def listen() -> None:
            for _ in range(40):
                found.append(sender_and_message(cluster))

        threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
        threads += [threading.Thread(target=listen) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        assert wrong == []
        assert task.result(PATIENCE) == 80
        for number in range(4):
            turns = [turn for _, (whose, turn) in found if whose == number]
            assert sorted(turns) == list(range(20))


class SharingThreads(Sharing):
    """The same where slots are threads of their agents."""

    SLOTS = 2

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, cluster_of: ClusterOf, share: object) -> Iterator[ReusedCluster]:  # noqa: ARG003
        """A cluster whose slots are threads."""
        kept = ReusedCluster(lambda: cluster_of(cls.SLOTS, inline="threads"))
        yield kept
        kept.close()


class SharingInline(Sharing):
    """The same where tasks run in the agents themselves, whose threads may not speak."""

    SLOTS = 2

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, cluster_of: ClusterOf, share: object) -> Iterator[ReusedCluster]:  # noqa: ARG003
        """A cluster whose agents run tasks themselves."""
        kept = ReusedCluster(lambda: cluster_of(cls.SLOTS, inline=True))
        yield kept
        kept.close()

    @pytest.mark.parametrize("size", [0, 500_000])
    def test_threads_of_a_task_send_and_receive(self, cluster: Cluster, size: int) -> None:
        """Calls that would wait for each other raise an error at once."""
        task = cluster.spawn(work.chorus, 4, 1, size)
        errors = task.result(PATIENCE)
        assert len(errors) == 4
        assert all(one.startswith("RuntimeError: an inline task can send") for one in errors)
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2
