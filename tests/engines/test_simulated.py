"""The simulated engine answers every call once; the controller benchmark uses it correctly."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from encamp.cluster.cluster import Cluster
from encamp.testing.fake import SimulatedEngine
from encamp.testing.waiting import until
from encamp.testing.work import add


def test_every_call_is_answered_once_and_only_when_it_may_be() -> None:
    engine = SimulatedEngine(100, 4)
    with Cluster(engine) as cluster:
        assert (len(cluster.hosts()), cluster.slots) == (100, 400)
        engine.hold()
        tasks = cluster.spawn_many(add, [(number,) for number in range(3000)])
        assert cluster.receive(0.05, source=tasks[0]) is None
        engine.release()
        assert [task.result(20) for task in tasks] == [None] * 3000
        assert engine.calls == 3000
        assert engine.own_seconds > 0


def test_tasks_are_spread_over_hosts_before_slots() -> None:
    engine = SimulatedEngine(50, 4)
    with Cluster(engine) as cluster:
        engine.hold()
        tasks = cluster.spawn_many(add, [(number,) for number in range(50)])
        until(lambda: all(task.host for task in tasks))
        assert len({task.host for task in tasks}) == 50
        assert set(cluster.hosts_with_free_slots().values()) == {3}
        engine.release()


def test_the_figures_of_the_controller_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    controller = importlib.import_module("benchmarks.controller")
    monkeypatch.setattr(controller, "HOSTS", 20)
    monkeypatch.setattr(controller, "COUNTS", (100, 200, 400))
    monkeypatch.setattr(controller, "WAITING", 500)
    memory, cost = controller.figures(tmp_path)
    assert 100 < memory.value < 5000
    assert "(500 of them in the queue)" in memory.what
    assert cost.value > 0
    assert "20 hosts x 8" in cost.how
