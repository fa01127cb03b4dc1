"""Jobs that depend on results of earlier ones."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import pool_tasks as tasks
import pytest
from pool_tasks import hold, started

from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, ClusterClosed, TaskLost
from encamp.executor import Executor, dispatch
from encamp.testing.waiting import until

SOON = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two slots, started before and ended after the tests of this module."""
    with Cluster("local", slots=2) as cluster:
        assert cluster.spawn(tasks.add, 1, notify=False).result(SOON) == 1
        yield cluster


@pytest.fixture
def pool(cluster: Cluster, local_storage_base: Path, no_slots_left: None) -> Iterator[Executor]:
    with Executor(cluster) as pool:
        yield pool


def test_results_are_in_job_order(pool: Executor) -> None:
    numbers = list(range(200))
    random.Random(3).shuffle(numbers)
    assert pool.dispatch((tasks.add, (n, n)) for n in numbers) == [2 * n for n in numbers]
    assert pool.dispatch([]) == []


def test_a_job_may_be_written_in_every_form(pool: Executor) -> None:
    jobs: list[Any] = [
        (tasks.add, (1, 2)),
        [tasks.add, [1], {"c": 5}],
        (tasks.add, (1,), {"b": 2}, "extra", 4),
        (partial(tasks.add, 7),),
        partial(tasks.add, 8),
        (tasks.add, range(2)),
    ]
    assert pool.dispatch(jobs) == [3, 6, 3, 7, 8, 1]


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (5, "is 5, neither a function"),
        ((), "neither a function"),
        ("text", "neither a function"),
        ((5, (1,)), "neither a function"),
        ((tasks.add, 3), r"has 3 as its args; write \(function, \(argument,\)\)"),
        ((tasks.add, "abc"), "has 'abc' as its args"),
        ((tasks.add, (1,), 4), "has 4 as its kwargs"),
    ],
)
def test_invalid_dispatch_job_is_named(pool: Executor, job: Any, why: str) -> None:
    with pytest.raises(BadJob, match=rf"^job 1: .*{why}"):
        pool.dispatch([(tasks.add, (1,)), job])


def test_jobs_are_asked_for_only_when_there_is_room(pool: Executor) -> None:
    asked, seen, ahead = 0, 0, list[int]()

    def jobs() -> Iterator[Any]:
        nonlocal asked
        for n in range(40):
            asked += 1
            ahead.append(asked - seen)
            yield tasks.add, (n,)

    def collect(index: int, job: Any, result: int) -> None:
        nonlocal seen
        seen += 1

    for prefetch, most in ((0, 2), (1, 4), (3, 8)):
        asked, seen, ahead[:] = 0, 0, []
        assert pool.dispatch(jobs(), collect, prefetch=prefetch) == list(range(40))
        assert max(ahead) == most
    with pytest.raises(ValueError, match="prefetch"):
        pool.dispatch([], prefetch=-1)


def test_a_job_knows_all_results_that_are_there(pool: Executor) -> None:
    """A search that halves its range: each job is made of what was found before."""
    found = {"low": 0, "high": 1000}
    asked = []

    def jobs() -> Iterator[Any]:
        while found["high"] - found["low"] > 1:
            middle = (found["low"] + found["high"]) // 2
            asked.append(middle)
            yield at_least, (middle, 617), {}, middle
            yield None

    def collect(index: int, job: Any, above: bool) -> None:
        found["high" if above else "low"] = job[3]

    pool.dispatch(jobs(), collect)
    assert found == {"low": 616, "high": 617}
    assert len(asked) == 10


def test_available_results_are_collected_before_next_job_is_generated(
    cluster: Cluster, pool: Executor
) -> None:
    seen: list[int] = []

    def jobs() -> Iterator[Any]:
        for n in range(5):
            yield tasks.add, (n,)
            # All that were there; and, if it was quick, the one that was asked for just now.
            assert seen in (list(range(n)), list(range(n + 1)))
            until(lambda: not cluster.tasks())
            cluster._pump.call(lambda: None)  # what had begun when that was seen is over

    results = pool.dispatch(jobs(), lambda index, *_: seen.append(index), prefetch=9)
    assert results == seen == list(range(5))


def at_least(number: int, secret: int) -> bool:
    return number >= secret


def test_jobs_are_asked_for_again_after_a_result_although_there_were_none(pool: Executor) -> None:
    class Tree:
        """Every node has two children, down to some depth."""

        def __init__(self) -> None:
            self.waiting = [1]

        def __iter__(self) -> Tree:
            return self

        def __next__(self) -> Any:
            if not self.waiting:
                raise StopIteration
            return tasks.same, (self.waiting.pop(),)

    tree, seen = Tree(), list[int]()

    def collect(index: int, job: Any, node: int) -> None:
        seen.append(node)
        if node < 16:
            tree.waiting += [2 * node, 2 * node + 1]

    results = pool.dispatch(tree, collect)
    assert sorted(results) == sorted(seen) == list(range(1, 32))


def test_jobs_that_wait_for_nothing_are_an_error_and_no_hang(pool: Executor) -> None:
    with pytest.raises(BadJob, match="job 1: waits for a result, but no job is running"):
        pool.dispatch([(tasks.add, (1,)), None, None])


def test_a_function_collects_each_job_as_it_ends(pool: Executor, tmp_path: Path) -> None:
    gate, got = tmp_path / "gate", list[tuple[int, Any, Any]]()
    jobs: list[Any] = [(hold, (gate, "slow"), {}, "extra")]
    jobs += [(tasks.add, (n,)) for n in range(1, 6)]

    def collect(index: int, job: Any, result: Any) -> None:
        got.append((index, job, result))
        if len(got) == 5:
            gate.touch()

    assert pool.dispatch(jobs, collect) == ["slow", 1, 2, 3, 4, 5]
    assert got == [*((n, jobs[n], n) for n in range(1, 6)), (0, jobs[0], "slow")]


@pytest.mark.parametrize("primed", [False, True])
def test_a_generator_collects_and_is_closed_at_the_end(pool: Executor, primed: bool) -> None:
    got: dict[int, Any] = {}
    ended = []

    def collector() -> Generator[None, tuple[int, Any, Any], None]:
        try:
            while True:
                index, job, result = yield
                got[index] = (job, result)
        except GeneratorExit:
            ended.append(sum(result for _, result in got.values()))

    jobs = [(tasks.add, (n,), {"c": 1}) for n in range(10)]
    collect = collector()
    if primed:
        next(collect)
    assert pool.dispatch(jobs, collect) == list(range(1, 11))
    assert got == {n: (job, n + 1) for n, job in enumerate(jobs)}
    assert ended == [55]


def test_a_generator_that_returns_ends_it(pool: Executor) -> None:
    asked: list[int] = []

    def jobs() -> Iterator[Any]:
        while True:
            asked.append(len(asked))
            yield tasks.add, (asked[-1],)

    def three() -> Generator[None, Any, None]:
        for _ in range(3):
            yield

    def none() -> Generator[None, Any, None]:
        if asked is None:
            yield

    results = pool.dispatch(jobs(), three(), prefetch=0)
    assert len([result for result in results if result is not None]) == 3
    assert len(results) == len(asked) <= 5
    asked.clear()
    assert pool.dispatch(jobs(), none()) == []
    assert asked == []


def test_without_keep_results_only_the_collector_sees_them(pool: Executor) -> None:
    got: list[int] = []
    jobs = ((tasks.add, (n,)) for n in range(50))
    assert pool.dispatch(jobs, lambda *result: got.append(result[2]), keep_results=False) == []
    assert sorted(got) == list(range(50))


def test_the_first_error_ends_it_all(pool: Executor, tmp_path: Path) -> None:
    gate, asked = tmp_path / "gate", list[int]()

    def jobs() -> Iterator[Any]:
        yield hold, (gate,)
        yield tasks.fail, (KeyError("the second"),)
        for n in range(1000):
            asked.append(n)
            yield tasks.touch, (tmp_path / f"ran-{n}",)

    try:
        with pytest.raises(KeyError, match="the second"):
            pool.dispatch(jobs(), prefetch=2)
    finally:
        gate.touch()
    pool.shutdown()
    assert len(asked) <= 4
    assert len(list(tmp_path.glob("ran-*"))) <= 4


def test_jobs_that_have_not_begun_are_cancelled_when_it_ends(
    pool: Executor, tmp_path: Path
) -> None:
    first, *gates = (tmp_path / f"gate-{n}" for n in range(3))

    def jobs() -> Iterator[Any]:
        for gate in (first, *gates):
            yield hold, (gate,)
        yield tasks.touch, (tmp_path / "ran-0",)
        first.touch()  # not before: no more jobs are asked for once a result is there
        yield tasks.touch, (tmp_path / "ran-1",)

    def refuse(*_: Any) -> None:
        until(lambda: all(started(gate).exists() for gate in gates))
        raise ValueError("enough")

    try:
        with pytest.raises(ValueError, match="enough"):
            pool.dispatch(jobs(), refuse, prefetch=2)
    finally:
        for gate in (first, *gates):
            gate.touch()
    pool.shutdown()
    assert not list(tmp_path.glob("ran-*"))


def test_errors_may_take_the_place_of_results(
    local_storage_base: Path, no_slots_left: None
) -> None:
    got: dict[int, Any] = {}
    jobs = [
        (tasks.add, (1,)),
        (tasks.fail, (KeyError("k"),)),
        (tasks.crash, (3,)),
        (tasks.add, (4,)),
    ]

    def collect(index: int, job: Any, result: Any) -> None:
        got[index] = result

    results = dispatch(jobs, collect, slots=2, return_exceptions=True)
    assert [results[0], results[3]] == [1, 4]
    assert isinstance(results[1], KeyError)
    assert isinstance(results[2], TaskLost)
    assert [got[n] for n in range(4)] == results


def test_errors_of_jobs_and_of_collectors_end_it_too(pool: Executor, tmp_path: Path) -> None:
    ended = []

    def jobs() -> Iterator[Any]:
        yield tasks.add, (1,)
        raise LookupError("no more")

    def collector() -> Generator[None, Any, None]:
        try:
            yield
            raise ValueError("I do not want it")
        finally:
            ended.append(True)

    def refuse(index: int, job: Any, result: Any) -> None:
        raise ValueError("I neither")

    with pytest.raises(LookupError, match="no more"):
        pool.dispatch(jobs())
    with pytest.raises(ValueError, match="I do not want it"):
        pool.dispatch(repeat((tasks.add, (1,))), collector())
    with pytest.raises(ValueError, match="I neither"):
        pool.dispatch(repeat((tasks.add, (1,))), refuse)
    assert ended == [True]
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_jobs_have_the_executors_options(pool: Executor, here: Path) -> None:
    (here / "in.txt").write_text("7")
    filed = pool.options(mirror="in.txt")
    assert filed.dispatch([(read, ()), (read, ())]) == ["7", "7"]


def read() -> str:
    return Path("in.txt").read_text()


def test_few_jobs_are_under_way_where_each_needs_much(cluster: Cluster, pool: Executor) -> None:
    host = cluster.hosts()[0]
    asked, seen, ahead = 0, 0, list[int]()

    def jobs() -> Iterator[Any]:
        nonlocal asked
        for n in range(6):
            asked += 1
            ahead.append(asked - seen)
            yield tasks.add, (n,)

    def collect(*_: Any) -> None:
        nonlocal seen
        seen += 1

    wide = pool.options(on=host, memory=host.memory // 2 + 1)
    assert wide.dispatch(jobs(), collect, prefetch=0) == list(range(6))
    assert max(ahead) == 1


def test_jobs_that_take_long_are_not_asked_for_before_their_time(
    pool: Executor, tmp_path: Path
) -> None:
    asked, seen, ahead = 0, 0, list[int]()

    def jobs() -> Iterator[Any]:
        nonlocal asked
        for n in range(8):
            asked += 1
            ahead.append(asked - seen)
            yield long, (n,)

    def collect(*_: Any) -> None:
        nonlocal seen
        seen += 1

    assert pool.dispatch(jobs(), collect) == list(range(8))
    assert max(ahead) == 2


def long(number: int) -> int:
    """Takes more than the hundredth of a second that slots have ahead of them."""
    ends = time.monotonic() + 0.03
    until(lambda: time.monotonic() > ends)
    return number


def test_a_cluster_that_is_closed_meanwhile_is_an_error_and_no_hang(
    local_storage_base: Path, no_slots_left: None
) -> None:
    with Executor("local", slots=1) as pool:

        def jobs() -> Iterator[Any]:
            yield tasks.add, (1,)
            pool.cluster.close()
            yield tasks.add, (2,)

        with pytest.raises(ClusterClosed):
            pool.dispatch(jobs(), prefetch=1)


def test_dispatch_makes_an_executor_of_its_own(
    local_storage_base: Path, no_slots_left: None, cluster: Cluster
) -> None:
    jobs = [(tasks.add, (n,)) for n in range(10)]
    assert dispatch(jobs, slots=2) == list(range(10))
    assert dispatch(jobs, cluster=cluster, prefetch=0) == list(range(10))
    got: list[int] = []
    assert dispatch(jobs, lambda index, *_: got.append(index), slots=1, keep_results=False) == []
    assert sorted(got) == list(range(10))
