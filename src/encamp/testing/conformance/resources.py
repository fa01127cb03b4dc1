"""Tasks that need more than a slot: cores, memory, graphics processors."""

# ruff: noqa: S101

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import NotEnough
from encamp.testing import work
from encamp.testing.conformance.bound import PATIENCE, Bound, ClusterOf, gates, results

GPUS = ("GPU-a", "GPU-b")


class Resources(Bound):
    """A host never gets more than it has."""

    @pytest.mark.parametrize("need", [{"cores": 4096}, {"memory": "900 TiB"}, {"gpus": 512}])
    def test_a_need_that_no_host_can_meet_is_an_error_at_once(
        self, cluster: Cluster, need: dict[str, Any]
    ) -> None:
        with pytest.raises(NotEnough, match=r"cores|memory|GPUs"):
            cluster.spawn(work.pid, **need)
        assert cluster.spawn(work.add, 1).result(PATIENCE) == 2

    def test_tasks_that_need_most_of_the_memory_run_one_after_the_other(
        self, cluster: Cluster
    ) -> None:
        for host in cluster.hosts():
            need = int(host.memory * 0.6)
            tasks = cluster.spawn_many(
                work.interval, [(0.05,)] * 4, memory=need, on=host, notify=False
            )
            _none_overlap(results(tasks))

    def test_tasks_that_need_all_cores_run_one_after_the_other(self, cluster: Cluster) -> None:
        for host in cluster.hosts():
            if host.cores < 2:
                continue
            tasks = cluster.spawn_many(
                work.interval, [(0.05,)] * 4, cores=host.cores, on=host, notify=False
            )
            _none_overlap(results(tasks))

    def test_small_tasks_go_on_beside_a_big_one_that_waits(self, cluster: Cluster) -> None:
        host = cluster.hosts()[0]
        need = int(host.memory * 0.6)
        with gates(cluster, 1, work.pid, memory=need, on=host):
            big = cluster.spawn(work.pid, memory=need, on=host)
            others = cluster.spawn_many(work.add, [(1,)] * 20)
            assert results(others) == [2] * 20
            assert not big.done()
        big.result(PATIENCE)

    @pytest.mark.parametrize("small", [0.3, 0.0])
    def test_a_big_task_does_not_wait_for_ever_behind_small_ones(
        self, cluster: Cluster, small: float
    ) -> None:
        host = max(cluster.hosts(), key=lambda host: host.slots)
        options: dict[str, Any] = {"on": host, "memory": int(small * host.memory)}
        others = [cluster.spawn(work.interval, 0.03, **options) for _ in range(80)]
        big = cluster.spawn(work.pid, on=host, memory=int(host.memory * 0.9))
        later = [cluster.spawn(work.interval, 0.03, **options) for _ in range(80)]
        big.result(PATIENCE)
        assert not all(task.done() for task in later)
        cluster.kill_all()
        assert others

    def test_a_task_sees_only_its_own_graphics_processors(
        self, cluster_of: ClusterOf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ENCAMP_GPUS", ",".join(GPUS))
        with cluster_of(4) as cluster:
            host = next(host for host in cluster.hosts() if host.slots > 1)
            assert tuple(host.gpus) == GPUS
            options: dict[str, Any] = {"gpus": 1, "on": host}
            with gates(cluster, 2, work.variable, "CUDA_VISIBLE_DEVICES", **options) as two:
                third = cluster.spawn(work.variable, "CUDA_VISIBLE_DEVICES", **options)
                assert not third.done()
            assert sorted(results(two)) == sorted(GPUS)
            assert third.result(PATIENCE) in GPUS
            both = cluster.spawn(work.variable, "CUDA_VISIBLE_DEVICES", gpus=2, on=host)
            assert set(both.result(PATIENCE).split(",")) == set(GPUS)
            none = cluster.spawn(work.variable, "CUDA_VISIBLE_DEVICES", on=host)
            assert not none.result(PATIENCE)


def _none_overlap(intervals: list[tuple[float, float]]) -> None:
    for (_, end), (begin, _) in pairwise(sorted(intervals)):
        assert end <= begin
