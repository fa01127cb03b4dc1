"""Which task runs where, without engines and processes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from encamp.cluster.functions import Function
from encamp.cluster.options import SpawnOptions
from encamp.cluster.records import Place, Record, Station
from encamp.cluster.scheduler import HORIZON, Scheduler


class Bench:
    """A scheduler with hosts, and tasks that end when they are told to."""

    def __init__(self, hosts: int = 1, slots: int = 2, cores: int = 4, gpus: int = 0) -> None:
        self.scheduler = Scheduler()
        self.function = Function(1, len, b"", by_value=False)
        self.count = 0
        self.running: dict[Place, list[Record]] = {}
        for number in range(hosts):
            devices = [f"gpu-{number}-{device}" for device in range(gpus)]
            station = Station(f"host-{number}", cores, 1000, devices)
            for slot in range(slots):
                self.scheduler.add(Place(number + 1, slot, station))

    def put(self, count: int = 1, **options: Any) -> list[Record]:
        checked = SpawnOptions(**options).checked()
        tasks = []
        for _ in range(count):
            self.count += 1
            keeper: Any = None
            tasks.append(Record(self.count, keeper, self.function, (), checked))
            self.scheduler.put(tasks[-1])
        return tasks

    def assign(self) -> list[tuple[Place, list[Record]]]:
        given = list(self.scheduler.assign())
        for place, tasks in given:
            self.running.setdefault(place, []).extend(tasks)
        return given

    def end(self, place: Place) -> Record:
        task = self.running[place].pop(0)
        self.scheduler.ended(place, task)
        return task


def test_tasks_are_spread_over_the_hosts_with_most_free_slots_first() -> None:
    bench = Bench(hosts=3, slots=4, cores=8)
    bench.put(5)
    used = Counter(place.station.name for place, _ in bench.assign())
    assert sorted(used.values()) == [1, 2, 2]
    bench.put(7)
    used.update(place.station.name for place, _ in bench.assign())
    assert sorted(used.values()) == [4, 4, 4]
    bench.put(1)
    assert bench.assign() == []


def test_a_call_of_unknown_length_has_its_slot_alone_and_short_ones_come_by_the_dozen() -> None:
    bench = Bench(slots=2)
    bench.put(1000)
    first = bench.assign()
    assert [len(tasks) for _, tasks in first] == [1, 1]
    bench.function.timing.took(HORIZON / 20)
    bench.end(first[0][0])
    (place, tasks), *rest = bench.assign()
    assert place is first[0][0]
    assert not rest
    assert 15 <= len(tasks) <= 20


def test_long_calls_are_not_sent_ahead() -> None:
    bench = Bench(slots=2)
    bench.function.timing.took(10 * HORIZON)
    bench.put(10)
    assert [len(tasks) for _, tasks in bench.assign()] == [1, 1]
    assert bench.scheduler.queued == 8


def test_the_last_calls_are_shared_out_evenly() -> None:
    bench = Bench(hosts=2, slots=2)
    bench.function.timing.took(1e-6)
    bench.put(16)
    counts = [len(tasks) for _, tasks in bench.assign()]
    assert len(counts) == 4
    assert max(counts) <= 2


def test_a_cancelled_task_is_passed_over() -> None:
    bench = Bench(slots=1)
    first, second = bench.put(2)
    first.ended()
    assert [tasks for _, tasks in bench.assign()] == [[second]]


def test_what_is_put_back_comes_first_again() -> None:
    bench = Bench(slots=1)
    bench.function.timing.took(1e-6)
    tasks = bench.put(30)
    ((place, given),) = bench.assign()
    for task in reversed(given[1:]):
        bench.scheduler.ended(place, task)
        task.waits_again()
    bench.scheduler.put_back(given[1:])
    bench.running[place] = given[:1]
    assert bench.end(place) is tasks[0]
    ((_, again),) = bench.assign()
    assert again[0] is tasks[1]


def test_a_host_never_gets_more_than_it_has() -> None:
    rng = random.Random(4)
    bench = Bench(hosts=3, slots=4, cores=4, gpus=2)
    for _ in range(400):
        if rng.random() < 0.5:
            need = rng.choice(
                [{}, {"cores": rng.randint(1, 4)}, {"gpus": rng.randint(1, 2)}, {"memory": 400}]
            )
            bench.put(rng.randint(1, 3), **need)
        busy = [place for place, tasks in bench.running.items() if tasks]
        if busy:
            bench.end(rng.choice(busy))
        for _, tasks in bench.assign():
            assert all(len(task.devices) == task.options.need.gpus for task in tasks)
        _check(bench)
    for _ in range(10_000):
        busy = [place for place, tasks in bench.running.items() if tasks]
        if not busy and not bench.assign():
            break
        for place in busy:
            bench.end(place)
    assert not bench.scheduler.queued, "some task was never run"
    assert bench.scheduler.idle == 12
    for station in bench.scheduler.stations.values():
        assert (station.used_cores, station.used_memory, station.wide) == (0, 0, 0)
        assert len(station.gpus) == 2


def _check(bench: Bench) -> None:
    for station in bench.scheduler.stations.values():
        heads = [tasks[0].options.need for p in station.places if (tasks := bench.running.get(p))]
        assert sum(need.cores for need in heads) <= 4
        assert sum(need.memory for need in heads) <= 1000
        assert sum(need.gpus for need in heads) + len(station.gpus) == 2


def test_a_big_task_is_not_passed_by_small_ones_for_ever() -> None:
    bench = Bench(slots=4, cores=4)
    bench.function.timing.took(1.0)
    bench.put(4)
    bench.assign()
    (big,) = bench.put(1, cores=4)
    for _ in range(4):
        bench.put(1)
        place = next(place for place, tasks in bench.running.items() if tasks)
        bench.end(place)
        for _, tasks in bench.assign():
            if tasks == [big]:
                return
    raise AssertionError("the small ones took every core that became free")


def test_tasks_keep_to_their_hosts() -> None:
    bench = Bench(hosts=3, slots=2)
    bench.put(4, on="host-1")
    bench.put(3, on=["host-0", "host-2"])
    used = Counter(place.station.name for place, _ in bench.assign())
    assert used["host-1"] == 2
    assert used["host-0"] + used["host-2"] == 3


def test_tasks_whose_only_host_is_gone_are_given_out() -> None:
    bench = Bench(hosts=2, slots=1)
    wanted = bench.put(2, on="host-1")
    others = bench.put(1)
    gone = bench.scheduler.stations["host-1"]
    for place in list(gone.places):
        bench.scheduler.remove(place)
    assert bench.scheduler.unmet() == wanted
    assert list(bench.scheduler.waiting()) == others


def test_a_closed_slot_gets_nothing_until_it_is_opened() -> None:
    bench = Bench(slots=1)
    bench.put(2)
    ((place, _),) = bench.assign()
    bench.scheduler.close(place)
    bench.end(place)
    assert bench.assign() == []
    assert bench.scheduler.idle == 0
    bench.scheduler.open(place)
    assert bench.scheduler.idle == 1
    assert len(bench.assign()) == 1


def test_a_closed_slot_that_still_has_calls_gets_no_more_of_them() -> None:
    bench = Bench(slots=1)
    bench.function.timing.took(HORIZON / 8)
    bench.put(40)
    ((place, given),) = bench.assign()
    assert len(given) > 3
    bench.scheduler.close(place)
    for _ in range(len(given) - 1):
        bench.end(place)
        assert bench.assign() == []
    bench.scheduler.open(place)
    assert [where for where, _ in bench.assign()] == [place]


def _check_counts(bench: Bench) -> None:
    places = [place for s in bench.scheduler.stations.values() for place in s.places]
    assert bench.scheduler.slots == len(places)
    assert bench.scheduler.idle == sum(not (p.ahead or p.closed) for p in places)
    assert bench.scheduler.ahead == sum(max(0, len(place.ahead) - 1) for place in places)


def test_slots_that_go_take_their_counts_along_whatever_they_had() -> None:
    bench = Bench(hosts=3, slots=2)
    bench.function.timing.took(HORIZON / 50)
    bench.put(3)
    assert len(bench.assign()) == 3
    bench.put(60)
    first = next(iter(bench.running))
    bench.end(first)
    assert bench.assign()
    places = [place for s in list(bench.scheduler.stations.values()) for place in s.places]
    bench.scheduler.close(places[-1])
    closed_idle = next(place for place in places if place is not places[-1])
    bench.scheduler.close(closed_idle)
    for place in places:
        had = list(place.ahead)
        assert bench.scheduler.remove(place) == had
        assert {task.place for task in had} <= {None}
        _check_counts(bench)
    assert bench.scheduler.stations == {}
    assert bench.assign() == []


def test_an_idle_slot_that_goes_is_counted_no_more() -> None:
    bench = Bench(hosts=2, slots=2)
    places = [p for s in list(bench.scheduler.stations.values()) for p in s.places]
    bench.scheduler.close(places[1])
    bench.scheduler.close(places[1])
    _check_counts(bench)
    for place in places:
        bench.scheduler.remove(place)
        _check_counts(bench)


@pytest.mark.parametrize("remove", [False, True])
def test_counts_stay_right_whatever_happens(remove: bool) -> None:
    rng = random.Random(7)
    bench = Bench(hosts=4, slots=3, cores=3)
    bench.function.timing.took(HORIZON / 50)
    acts: list[Callable[[], object]] = [
        lambda: bench.put(rng.randint(1, 40)),
        lambda: [bench.end(p) for p, t in bench.running.items() if t and rng.random() < 0.5],
        bench.assign,
    ]
    for step in range(500):
        rng.choice(acts)()
        if remove and step == 250:
            for place in list(bench.scheduler.stations["host-2"].places):
                bench.scheduler.put_back(bench.scheduler.remove(place))
                bench.running.pop(place, None)
        _check_counts(bench)
