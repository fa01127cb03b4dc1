"""Leases: Dask tasks for busy slots and waiting calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

Leases = pytest.importorskip("encamp.engines.dask.leases").Leases
dask_engine = pytest.importorskip("encamp.engines.dask.engine")
FIRST, SECOND = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"


class FakeClient:
    """As much of Dask's client as leases use: the tasks that are there."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}

    def submit(self, _: Any, own_key: str, /, key: str, **options: Any) -> str:
        assert own_key == key
        assert options["pure"] is False
        assert key not in self.there
        self.there[key] = options
        return key

    def cancel(self, keys: list[str], *, force: bool) -> None:
        assert force
        for key in keys:
            del self.there[key]

    def places(self) -> dict[str, int]:
        """By worker, how many tasks may run only there; at ``""``, how many may run anywhere."""
        found: Counter[str] = Counter()
        for options in self.there.values():
            (place,) = options.get("workers", [""])
            assert not place or options["allow_other_workers"] is False
            found[place] += 1
        return dict(found)


def test_each_busy_slot_and_each_waiting_call_has_one() -> None:
    client = FakeClient()
    leases = Leases(client, "run")
    leases.adjust({FIRST: 2, SECOND: 1}, 3)
    assert client.places() == {FIRST: 2, SECOND: 1, "": 3}
    before = set(client.there)
    leases.adjust({FIRST: 2, SECOND: 1}, 3)
    assert set(client.there) == before
    leases.adjust({FIRST: 1, SECOND: 2}, 0)
    assert client.places() == {FIRST: 1, SECOND: 2}
    leases.adjust({SECOND: 2}, 1)
    assert client.places() == {SECOND: 2, "": 1}
    leases.close()
    assert client.places() == {}


def test_many_waiting_calls_let_the_cluster_grow_step_by_step() -> None:
    client = FakeClient()
    leases = Leases(client, "run")
    leases.adjust({}, 1000)
    assert client.places() == {"": 16}
    leases.adjust({FIRST: 8}, 1000)
    assert client.places() == {FIRST: 8, "": 24}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Run:
    """An engine for which Dask's cluster is a fake, and its helper thread this one."""

    def __init__(self, slots: int | None) -> None:
        self.client = FakeClient()
        self.engine: Any = dask_engine.DaskEngine(self.client, slots, 3, None)
        self.begun: dict[str, int] = {}
        self.engine._start = self._note

    def _note(self, agents: Any) -> None:
        for agent in agents:
            self.begun[agent.where] = self.begun.get(agent.where, 0) + agent.slots

    def look(self, busy: dict[str, int], waiting: int = 0) -> dict[str, int]:
        """The leases after a look at so many busy slots of workers, and waiting calls."""
        number = {str(agent.where): agent.number for agent in self.engine.known.values()}
        self.engine.needs({number[where]: count for where, count in busy.items()}, waiting)
        self.engine._lease()
        return self.client.places()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(dask_engine, "time", clock)
    return clock


@pytest.fixture(params=[None])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    run = Run(request.param)
    yield run
    run.engine._release_network()


three_slots = pytest.mark.parametrize("run", [3], indirect=True)


def test_a_worker_is_kept_for_a_moment_after_its_work(run: Run, clock: Clock) -> None:
    run.engine._note_workers({FIRST: 2, SECOND: 1})
    assert run.look({FIRST: 2, SECOND: 1}) == {FIRST: 2, SECOND: 1}
    clock.now += 1.0
    assert run.look({FIRST: 1}) == {FIRST: 1, SECOND: 1}
    clock.now += 1.0
    assert run.look({}) == {FIRST: 1}
    clock.now += 2.0
    assert run.look({}) == {}


def test_a_worker_that_has_left_is_not_asked_for(run: Run, clock: Clock) -> None:
    run.engine._note_workers({FIRST: 2, SECOND: 1})
    assert run.look({FIRST: 2, SECOND: 1}) == {FIRST: 2, SECOND: 1}
    run.engine._worker_gone(FIRST)
    assert run.look({SECOND: 1}) == {SECOND: 1}
    run.begun.clear()
    run.engine._note_workers({FIRST: 2, SECOND: 1})  # it is back
    assert run.begun == {FIRST: 2}


def test_calls_that_wait_for_a_moment_only_do_not_make_the_cluster_grow(
    run: Run, clock: Clock
) -> None:
    assert run.look({}, 5) == {}
    assert run.look({}, 3) == {"": 3}
    assert run.look({}, 0) == {}
    assert run.look({}, 4) == {}


@three_slots
def test_no_more_slots_are_taken_or_asked_for_than_wanted(run: Run, clock: Clock) -> None:
    assert (run.look({}, 9), run.look({}, 9)) == ({}, {"": 3})
    run.engine._note_workers({FIRST: 2})
    assert run.begun == {FIRST: 2}
    assert run.look({}, 9) == {"": 1}
    run.engine._note_workers({FIRST: 2, SECOND: 2})
    assert run.begun == {FIRST: 2, SECOND: 1}
    assert run.look({}, 9) == {}


@three_slots
def test_slots_of_a_worker_that_was_given_up_are_taken_elsewhere(run: Run, clock: Clock) -> None:
    run.engine._note_workers({FIRST: 3})
    (agent,) = run.engine.known.values()
    run.engine.give_up(agent.number)
    run.engine._note_workers({FIRST: 3, SECOND: 3})
    assert run.begun == {FIRST: 3, SECOND: 3}


@three_slots
def test_workers_joining_together_share_wanted_slots(run: Run, clock: Clock) -> None:
    run.engine._note_workers({FIRST: 2, SECOND: 2})
    assert run.begun == {FIRST: 2, SECOND: 1}


@three_slots
def test_no_slots_are_taken_while_there_are_too_many(run: Run, clock: Clock) -> None:
    run.engine._note_workers({FIRST: 3})
    (agent,) = run.engine.known.values()
    run.engine.give_up(agent.number)
    run.engine._note_workers({FIRST: 3, SECOND: 3})
    run.engine.begin_again(agent)  # its host is back
    run.begun.clear()
    run.engine._note_workers({FIRST: 3, SECOND: 3, "tcp://10.0.0.3:1": 3})
    assert run.begun == {}
