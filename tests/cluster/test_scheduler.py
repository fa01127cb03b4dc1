"""The scheduler alone, without engines and processes."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from encamp.cluster.records import HostRecord, SlotRecord, TaskRecord
from encamp.cluster.scheduler import HORIZON, Scheduler
from encamp.cluster.sent_functions import Function
from encamp.cluster.spawn_options import SpawnOptions


class Bench:
    """A scheduler with hosts, and tasks that end when they are told to."""

    def __init__(self, hosts: int = 1, slots: int = 2, cores: int = 4, gpus: int = 0) -> None:
        self.scheduler = Scheduler()
        self.function = Function(1, len, b"", by_value=False)
        self.count = 0
        self.running: dict[SlotRecord, list[TaskRecord]] = {}
        for number in range(hosts):
            devices = [f"gpu-{number}-{device}" for device in range(gpus)]
            host = HostRecord(f"host-{number}", cores, 1000, devices)
            for slot in range(slots):
                self.scheduler.add(SlotRecord(number + 1, slot, host))

    def put(self, count: int = 1, **options: Any) -> list[TaskRecord]:
        checked = SpawnOptions(**options).checked()
        tasks = []
        for _ in range(count):
            self.count += 1
            canceller: Any = None
            tasks.append(TaskRecord(self.count, canceller, self.function, (), checked))
            self.scheduler.put(tasks[-1])
        return tasks

    def assign(self) -> list[tuple[SlotRecord, list[TaskRecord]]]:
        given = list(self.scheduler.assign())
        for slot, tasks in given:
            self.running.setdefault(slot, []).extend(tasks)
        return given

    def end(self, slot: SlotRecord) -> TaskRecord:
        task = self.running[slot].pop(0)
        self.scheduler.ended(slot, task)
        return task


def test_tasks_are_spread_over_the_hosts_with_most_free_slots_first() -> None:
    bench = Bench(hosts=3, slots=4, cores=8)
    bench.put(5)
    used = Counter(slot.host.name for slot, _ in bench.assign())
    assert sorted(used.values()) == [1, 2, 2]
    bench.put(7)
    used.update(slot.host.name for slot, _ in bench.assign())
    assert sorted(used.values()) == [4, 4, 4]
    bench.put(1)
    assert bench.assign() == []


def test_unknown_calls_run_alone_and_short_ones_in_batches() -> None:
    bench = Bench(slots=2)
    bench.put(1000)
    first = bench.assign()
    assert [len(tasks) for _, tasks in first] == [1, 1]
    bench.function.timing.took(HORIZON / 20)
    bench.end(first[0][0])
    (slot, tasks), *rest = bench.assign()
    assert slot is first[0][0]
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


def test_a_busy_slot_gets_a_millisecond_of_short_calls_at_once() -> None:
    bench = Bench(slots=2)
    bench.function.timing.took(1e-4)
    bench.put(20)
    assert [len(tasks) for _, tasks in bench.assign()] == [5, 3]
    slot = next(iter(bench.running))
    bench.end(slot)
    ((given, tasks),) = bench.assign()
    assert given is slot
    assert len(tasks) == 10  # a quarter of the queue would be three
    assert bench.scheduler.queued == 2


def test_a_cancelled_task_is_passed_over() -> None:
    bench = Bench(slots=1)
    first, second = bench.put(2)
    first.ended()
    assert [tasks for _, tasks in bench.assign()] == [[second]]


def test_returned_tasks_are_queued_first() -> None:
    bench = Bench(slots=1)
    bench.function.timing.took(1e-6)
    tasks = bench.put(30)
    ((slot, given),) = bench.assign()
    for task in reversed(given[1:]):
        bench.scheduler.ended(slot, task)
        task.waits_again()
    bench.scheduler.put_back(given[1:])
    bench.running[slot] = given[:1]
    assert bench.end(slot) is tasks[0]
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
        busy = [slot for slot, tasks in bench.running.items() if tasks]
        if busy:
            bench.end(rng.choice(busy))
        for _, tasks in bench.assign():
            assert all(len(task.devices) == task.options.need.gpus for task in tasks)
        _check(bench)
    for _ in range(10_000):
        busy = [slot for slot, tasks in bench.running.items() if tasks]
        if not busy and not bench.assign():
            break
        for slot in busy:
            bench.end(slot)
    assert not bench.scheduler.queued, "some task was never run"
    assert bench.scheduler.idle == 12
    for host in bench.scheduler.hosts.values():
        assert (host.used_cores, host.used_memory, host.wide) == (0, 0, 0)
        assert len(host.gpus) == 2


def _check(bench: Bench) -> None:
    for host in bench.scheduler.hosts.values():
        heads = [tasks[0].options.need for p in host.slots if (tasks := bench.running.get(p))]
        assert sum(need.cores for need in heads) <= 4
        assert sum(need.memory for need in heads) <= 1000
        assert sum(need.gpus for need in heads) + len(host.gpus) == 2


def test_a_big_task_is_not_passed_by_small_ones_for_ever() -> None:
    bench = Bench(slots=4, cores=4)
    bench.function.timing.took(1.0)
    bench.put(4)
    bench.assign()
    (big,) = bench.put(1, cores=4)
    for _ in range(4):
        bench.put(1)
        slot = next(slot for slot, tasks in bench.running.items() if tasks)
        bench.end(slot)
        for _, tasks in bench.assign():
            if tasks == [big]:
                return
    raise AssertionError("the small ones took every core that became free")


def test_cancelled_big_task_frees_its_host() -> None:
    bench = Bench(slots=2, cores=2)
    bench.put(2)
    running = bench.assign()
    assert len(running) == 2
    big = bench.put(1, cores=2)
    assert bench.assign() == []
    small = bench.put(1)
    bench.scheduler.drop(big)
    bench.end(running[0][0])
    assert [tasks for _, tasks in bench.assign()] == [small]


def test_a_big_task_that_was_cancelled_reserves_no_host() -> None:
    bench = Bench(slots=2, cores=2)
    bench.put(2)
    running = bench.assign()
    (big,) = bench.put(1, cores=2)
    big.ended()  # and is not yet removed from its queue
    small = bench.put(1)
    bench.end(running[0][0])
    assert [tasks for _, tasks in bench.assign()] == [small]


def test_tasks_keep_to_their_hosts() -> None:
    bench = Bench(hosts=3, slots=2)
    bench.put(4, on="host-1")
    bench.put(3, on=["host-0", "host-2"])
    used = Counter(slot.host.name for slot, _ in bench.assign())
    assert used["host-1"] == 2
    assert used["host-0"] + used["host-2"] == 3


def test_tasks_of_lost_only_host_are_returned() -> None:
    bench = Bench(hosts=2, slots=1)
    wanted = bench.put(2, on="host-1")
    others = bench.put(1)
    gone = bench.scheduler.hosts["host-1"]
    for slot in list(gone.slots):
        bench.scheduler.remove(slot)
    assert bench.scheduler.unmet() == wanted
    assert list(bench.scheduler.waiting()) == others


def test_a_closed_slot_gets_nothing_until_it_is_opened() -> None:
    bench = Bench(slots=1)
    bench.put(2)
    ((slot, _),) = bench.assign()
    bench.scheduler.close(slot)
    bench.end(slot)
    assert bench.assign() == []
    assert bench.scheduler.idle == 0
    bench.scheduler.open(slot)
    assert bench.scheduler.idle == 1
    assert len(bench.assign()) == 1


def test_a_closed_slot_that_still_has_calls_gets_no_more_of_them() -> None:
    bench = Bench(slots=1)
    bench.function.timing.took(HORIZON / 8)
    bench.put(40)
    ((slot, given),) = bench.assign()
    assert len(given) > 3
    bench.scheduler.close(slot)
    for _ in range(len(given) - 1):
        bench.end(slot)
        assert bench.assign() == []
    bench.scheduler.open(slot)
    assert [where for where, _ in bench.assign()] == [slot]


def test_a_slot_that_is_closed_when_it_needs_more_calls_gets_none() -> None:
    bench = Bench(slots=1)
    bench.function.timing.took(HORIZON / 8)
    bench.put(5)
    ((slot, given),) = bench.assign()
    for _ in given[1:]:
        bench.end(slot)
    bench.put(5)
    bench.scheduler.close(slot)
    assert bench.assign() == []


def _check_counts(bench: Bench) -> None:
    slots = [slot for s in bench.scheduler.hosts.values() for slot in s.slots]
    assert bench.scheduler.slots == len(slots)
    assert bench.scheduler.idle == sum(not (p.tasks or p.closed) for p in slots)
    assert bench.scheduler.ahead == sum(max(0, len(slot.tasks) - 1) for slot in slots)


def test_slots_that_go_take_their_counts_along_whatever_they_had() -> None:
    bench = Bench(hosts=3, slots=2)
    bench.function.timing.took(HORIZON / 50)
    bench.put(3)
    assert len(bench.assign()) == 3
    bench.put(60)
    first = next(iter(bench.running))
    bench.end(first)
    assert bench.assign()
    slots = [slot for s in list(bench.scheduler.hosts.values()) for slot in s.slots]
    bench.scheduler.close(slots[-1])
    closed_idle = next(slot for slot in slots if slot is not slots[-1])
    bench.scheduler.close(closed_idle)
    for slot in slots:
        had = list(slot.tasks)
        assert bench.scheduler.remove(slot) == had
        assert {task.slot for task in had} <= {None}
        _check_counts(bench)
    assert bench.scheduler.hosts == {}
    assert bench.assign() == []


@pytest.mark.parametrize("options", [{"gpus": 1}, {"memory": 800}, {"cores": 4}])
def test_resources_are_freed_when_slot_is_removed(options: dict[str, Any]) -> None:
    bench = Bench(slots=3, cores=4, gpus=1)
    bench.put(**options)
    ((slot, [first]),) = bench.assign()
    (second,) = bench.put(**options)
    assert bench.assign() == []
    assert bench.scheduler.remove(slot) == [first]
    ((_, tasks),) = bench.assign()
    assert tasks == [second]
    assert second.devices == (("gpu-0-0",) if "gpus" in options else ())


def test_slot_lost_with_several_calls_frees_its_core() -> None:
    bench = Bench(slots=2, cores=2)
    bench.function.timing.took(HORIZON / 50)
    bench.put(20)
    (first, given), (second, _) = bench.assign()
    assert len(given) > 1
    bench.scheduler.remove(first)
    while bench.running[second]:
        bench.end(second)
    big = bench.put(1, cores=2)
    assert [tasks for _, tasks in bench.assign()] == [big]


def test_a_host_that_has_gone_is_kept_nowhere() -> None:
    bench = Bench(slots=1)
    gone = weakref.ref(bench.scheduler.hosts["host-0"])
    (slot,) = bench.scheduler.hosts["host-0"].slots
    bench.scheduler.remove(slot)
    del slot
    gc.collect()
    assert gone() is None


def test_nothing_is_sent_behind_a_task_with_needs_when_its_slot_is_opened_again() -> None:
    bench = Bench(slots=1, gpus=1)
    bench.function.timing.took(1e-6)
    bench.put(gpus=1)
    ((slot, _),) = bench.assign()
    bench.scheduler.close(slot)
    bench.scheduler.open(slot)
    bench.put(5)
    assert bench.assign() == []
    bench.end(slot)
    assert len(bench.assign()) == 1


def test_removed_idle_slot_no_longer_counts() -> None:
    bench = Bench(hosts=2, slots=2)
    slots = [p for s in list(bench.scheduler.hosts.values()) for p in s.slots]
    bench.scheduler.close(slots[1])
    bench.scheduler.close(slots[1])
    _check_counts(bench)
    for slot in slots:
        bench.scheduler.remove(slot)
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
            for slot in list(bench.scheduler.hosts["host-2"].slots):
                bench.scheduler.put_back(bench.scheduler.remove(slot))
                bench.running.pop(slot, None)
        _check_counts(bench)
