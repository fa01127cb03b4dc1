"""One suite that the executor and the standard pools pass."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)
from contextlib import suppress
from pathlib import Path
from typing import Any

import pool_tasks as tasks
import psutil
import pytest
from pool_tasks import hold, new_pool, started

from encamp.errors import TaskLost
from encamp.testing.waiting import until

SOON = 60.0
"""Seconds within which everything ends that ends at all."""

KINDS = ("threads", "forkserver", "inline", "local")
processes_only = pytest.mark.parametrize("kind", ["forkserver", "local"], indirect=True)
spawn_too = pytest.mark.parametrize("kind", [*KINDS, "spawn"], indirect=True)

Make = Callable[..., Executor]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(kind: str, local_storage_base: Path, no_slots_left: None) -> Iterator[Make]:
    """Makes pools of this kind, with two workers; shuts them down."""
    made: list[Executor] = []

    def make(workers: int = 2, **options: Any) -> Executor:
        made.append(new_pool(kind, workers, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def pool(make: Make) -> Executor:
    return make()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Opened by touching it; at the end of the test at the latest, so that no pool waits for it."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def busy(pool: Executor, gate: Path, workers: int = 2) -> list[Future[Any]]:
    """Calls that keep all workers busy until the gate opens."""
    gates = [gate.with_name(f"gate-{n}") for n in range(workers)]
    for path in gates:
        path.symlink_to(gate)
    calls = [pool.submit(hold, path, n) for n, path in enumerate(gates)]
    until(lambda: all(started(path).exists() for path in gates))
    return calls


# Submitting


@spawn_too
def test_a_call_gets_its_arguments_and_gives_its_value(pool: Executor) -> None:
    assert pool.submit(tasks.add, 1, 2).result(SOON) == 3
    assert pool.submit(tasks.add, "a", b="b", c="c").result(SOON) == "abc"
    assert [pool.submit(tasks.same, v).result(SOON) for v in (None, False, (), {"a": [1]})] == [
        None,
        False,
        (),
        {"a": [1]},
    ]


def test_names_of_arguments_are_the_functions_own(pool: Executor) -> None:
    call = pool.submit(tasks.named, 1, self=2, fn=3, task=4, cluster=5, timeout=6, name=7)
    assert call.result(SOON) == (
        1,
        {"self": 2, "fn": 3, "task": 4, "cluster": 5, "timeout": 6, "name": 7},
    )


def test_thousand_calls_return_their_own_values(pool: Executor) -> None:
    calls = [pool.submit(tasks.add, n, c=n) for n in range(1000)]
    assert [call.result(SOON) for call in calls] == [2 * n for n in range(1000)]


def test_large_values_travel_both_ways(pool: Executor) -> None:
    data = random.Random(1).randbytes(10_000_000)
    assert pool.submit(tasks.same, data).result(SOON) == data


def test_calls_run_side_by_side(pool: Executor, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    calls = [pool.submit(tasks.meet, one, two), pool.submit(tasks.meet, two, one)]
    assert calls[0].result(SOON) != calls[1].result(SOON)


def test_many_threads_may_submit_at_once(pool: Executor) -> None:
    calls: dict[int, list[Future[int]]] = {}

    def submit(thread: int) -> None:
        calls[thread] = [pool.submit(tasks.add, thread, 10 * n) for n in range(50)]

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = {thread: [call.result(SOON) for call in made] for thread, made in calls.items()}
    assert results == {t: [t + 10 * n for n in range(50)] for t in range(8)}


def test_many_threads_may_wait_for_one_call(pool: Executor, gate: Path) -> None:
    call = pool.submit(hold, gate, "done")
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(call.result(SOON))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(started(gate).exists)
    gate.touch()
    for thread in threads:
        thread.join(SOON)
    assert got == ["done"] * 4


def test_calls_work_with_asyncio(pool: Executor) -> None:
    async def run() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(pool, tasks.add, 1, 2)
        second = asyncio.wrap_future(pool.submit(tasks.fail, KeyError("k")))
        return await asyncio.gather(first, second, return_exceptions=True)

    good, bad = asyncio.run(run())
    assert good == 3
    assert isinstance(bad, KeyError)


# Errors


def test_error_is_returned_and_affects_no_other_call(pool: Executor) -> None:
    bad, good = pool.submit(tasks.fail, KeyError("lost", 3)), pool.submit(tasks.add, 1)
    error = bad.exception(SOON)
    assert type(error) is KeyError
    assert error.args == ("lost", 3)
    with pytest.raises(KeyError, match="lost"):
        bad.result(SOON)
    assert good.result(SOON) == 1
    assert good.exception(SOON) is None


@spawn_too
def test_an_errors_traceback_shows_where_it_was_raised(pool: Executor) -> None:
    error = pool.submit(tasks.dig, 3).exception(SOON)
    assert error is not None
    text = "".join(traceback.format_exception(error))
    assert len(re.findall(r"pool_tasks.py\", line \d+, in dig", text)) == 4, text
    assert 'raise LookupError("nothing down here")' in text


@processes_only
def test_the_remote_traceback_is_the_errors_cause(pool: Executor) -> None:
    error = pool.submit(tasks.dig, 0).exception(SOON)
    assert error is not None
    assert error.__cause__ is not None
    assert "in dig" in str(error.__cause__)
    assert "LookupError: nothing down here" in str(error.__cause__)


def test_a_traceback_shows_the_errors_own_cause_too(pool: Executor) -> None:
    error = pool.submit(tasks.fail_for_a_reason).exception(SOON)
    assert isinstance(error, tasks.Cause)
    text = "".join(traceback.format_exception(error))
    assert "LookupError: nothing down here" in text
    assert "The above exception was the direct cause of the following exception" in text


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(4), GeneratorExit()], ids=repr
)
def test_errors_that_end_programs_only_end_their_call(pool: Executor, error: BaseException) -> None:
    found = pool.submit(tasks.fail, error).exception(SOON)
    assert type(found) is type(error)
    assert found.args == error.args
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_non_function_fails_its_own_future(pool: Executor) -> None:
    nothing: Any = 5
    with pytest.raises(TypeError, match="not callable"):
        pool.submit(nothing).result(SOON)
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_wrong_arguments_fail_their_own_future(pool: Executor) -> None:
    wrong: Any = tasks.add
    with pytest.raises(TypeError, match="unexpected keyword"):
        pool.submit(wrong, 1, d=2).result(SOON)
    assert pool.submit(tasks.add, 1).result(SOON) == 1


@processes_only
def test_unpicklable_call_fails_its_own_future(pool: Executor) -> None:
    before = pool.submit(tasks.add, 1)
    lock = pool.submit(tasks.same, threading.Lock())
    method = pool.submit(threading.Lock().acquire)
    after = pool.submit(tasks.add, 2)
    assert "pickle" in str(lock.exception(SOON))
    assert "pickle" in str(method.exception(SOON))
    assert [before.result(SOON), after.result(SOON)] == [1, 2]


@processes_only
def test_a_value_that_cannot_be_pickled_fails_its_own_future(pool: Executor) -> None:
    bad, good = pool.submit(tasks.lock_of_my_own), pool.submit(tasks.add, 1)
    assert "pickle" in str(bad.exception(SOON))
    assert good.result(SOON) == 1


@processes_only
def test_an_error_that_cannot_be_pickled_fails_its_own_future(pool: Executor) -> None:
    bad, good = pool.submit(tasks.fail_locally), pool.submit(tasks.add, 1)
    assert bad.exception(SOON) is not None
    assert good.result(SOON) == 1


@processes_only
def test_a_worker_that_dies_fails_its_call_without_a_hang(pool: Executor) -> None:
    assert isinstance(pool.submit(tasks.crash).exception(SOON), BrokenExecutor | TaskLost)


# Futures


def test_a_call_is_running_from_its_start_to_its_end(pool: Executor, gate: Path) -> None:
    call = pool.submit(hold, gate, 5)
    until(started(gate).exists)
    until(call.running)
    assert not call.done()
    assert not call.cancel()
    assert not call.cancelled()
    gate.touch()
    assert call.result(SOON) == 5
    assert call.done()
    assert not call.running()
    assert not call.cancel()


def test_a_cancelled_call_never_runs(pool: Executor, gate: Path, tmp_path: Path) -> None:
    holding = busy(pool, gate)
    waiting = [pool.submit(tasks.touch, tmp_path / f"ran-{n}") for n in range(20)]
    cancelled = [n for n, call in enumerate(waiting) if n >= 10 and call.cancel()]
    assert cancelled == list(range(10, 20))
    assert all(call.cancelled() and call.done() for call in waiting[10:])
    gate.touch()
    assert [call.result(SOON) for call in holding + waiting[:10]] == [
        *range(2),
        *(f"ran-{n}" for n in range(10)),
    ]
    for call in waiting[10:]:
        with pytest.raises(CancelledError):
            call.result(SOON)
    pool.shutdown()
    assert {path.name for path in tmp_path.glob("ran-*")} == {f"ran-{n}" for n in range(10)}


def test_waiting_for_a_result_may_be_limited_and_repeated(pool: Executor, gate: Path) -> None:
    call = pool.submit(hold, gate, 7)
    with pytest.raises(TimeoutError):
        call.result(0.05)
    with pytest.raises(TimeoutError):
        call.exception(0)
    gate.touch()
    assert call.result(SOON) == 7


def test_callbacks_get_the_call_in_the_order_in_which_they_were_added(
    pool: Executor, gate: Path
) -> None:
    call, got = pool.submit(hold, gate, 7), list[tuple[int, Future[Any]]]()
    for n in range(3):
        call.add_done_callback(lambda done, n=n: got.append((n, done)))  # type: ignore[misc]
    assert got == []
    gate.touch()
    call.result(SOON)
    until(lambda: len(got) == 3)
    call.add_done_callback(lambda done: got.append((3, done)))
    assert got == [(n, call) for n in range(4)]


def test_a_callback_is_called_when_its_call_is_cancelled(pool: Executor, gate: Path) -> None:
    busy(pool, gate)
    calls = [pool.submit(tasks.add, 1) for _ in range(10)]
    got: list[Future[Any]] = []
    calls[-1].add_done_callback(got.append)
    assert calls[-1].cancel()
    assert got == [calls[-1]]


def test_raising_callback_is_logged_and_ignored(
    pool: Executor, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call, got = pool.submit(hold, gate, 7), list[Future[Any]]()
    call.add_done_callback(lambda _: 1 // 0)
    call.add_done_callback(got.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.touch()
        until(lambda: got)
    assert "ZeroDivisionError" in caplog.text
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_a_callback_may_submit(pool: Executor) -> None:
    calls: list[Future[int]] = []

    def go_on(done: Future[int]) -> None:
        if done.result() < 10:
            calls.append(pool.submit(tasks.add, done.result(), 1))
            calls[-1].add_done_callback(go_on)

    pool.submit(tasks.add, 0).add_done_callback(go_on)
    until(lambda: len(calls) == 10 and calls[-1].done())
    assert [call.result() for call in calls] == list(range(1, 11))


def test_as_completed_gives_each_call_as_it_ends(pool: Executor, gate: Path) -> None:
    slow = pool.submit(hold, gate, "slow")
    quick = [pool.submit(tasks.add, n) for n in range(5)]
    ended = as_completed([slow, *quick], timeout=SOON)
    first = [next(ended) for _ in range(5)]
    assert set(first) == set(quick)
    gate.touch()
    assert list(ended) == [slow]
    assert set(as_completed([slow, *quick], timeout=SOON)) == {slow, *quick}


def test_as_completed_stops_when_its_time_is_over(pool: Executor, gate: Path) -> None:
    slow, quick = pool.submit(hold, gate), pool.submit(tasks.add, 1)
    quick.result(SOON)
    ended = as_completed([slow, quick], timeout=0.1)
    assert next(ended) is quick
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        next(ended)


def test_wait_returns_on_its_condition(pool: Executor, gate: Path) -> None:
    slow, quick = pool.submit(hold, gate), pool.submit(tasks.add, 1)
    assert wait([slow, quick], SOON, FIRST_COMPLETED) == ({quick}, {slow})
    bad = pool.submit(tasks.fail, KeyError())
    done, pending = wait([slow, bad], SOON, FIRST_EXCEPTION)
    assert (done, pending) == ({bad}, {slow})
    assert wait([slow, bad], 0.05, ALL_COMPLETED) == ({bad}, {slow})
    gate.touch()
    assert wait([slow, quick, bad], SOON) == ({slow, quick, bad}, set())


def test_wait_and_as_completed_see_cancelled_calls(pool: Executor, gate: Path) -> None:
    busy(pool, gate)
    calls = [pool.submit(tasks.add, n) for n in range(10)]
    assert calls[-1].cancel()
    gate.touch()
    assert wait(calls, SOON).done == set(calls)
    assert set(as_completed(calls, SOON)) == set(calls)


# Map


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
def test_map_keeps_the_order_of_its_items(pool: Executor, chunksize: int) -> None:
    numbers = list(range(50))
    random.Random(2).shuffle(numbers)
    assert list(pool.map(tasks.add, numbers, chunksize=chunksize)) == numbers
    several = pool.map(tasks.add, numbers, range(0, 500, 10), chunksize=chunksize)
    assert list(several) == [n + 10 * m for m, n in enumerate(numbers)]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_ends_with_its_shortest_iterable(pool: Executor, chunksize: int) -> None:
    assert list(pool.map(tasks.add, [1, 2, 3], (4, 5), chunksize=chunksize)) == [5, 7]
    assert list(pool.map(tasks.add, [], chunksize=chunksize)) == []
    assert list(pool.map(tasks.add, [], [1], chunksize=chunksize)) == []
    assert list(pool.map(tasks.add, chunksize=chunksize)) == []


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_takes_items_from_anything(pool: Executor, chunksize: int) -> None:
    kinds: list[Callable[[str], Any]] = [list, tuple, iter, set, dict.fromkeys, str, str.encode]
    for kind_of in kinds:
        expected = list(kind_of("abcdefgh"))
        got = list(pool.map(tasks.same, kind_of("abcdefgh"), chunksize=chunksize))
        assert got == expected, kind_of


@pytest.mark.parametrize("chunksize", [1, 3])
def test_items_that_are_tuples_stay_one_argument(pool: Executor, chunksize: int) -> None:
    items = [(1, 2), (), ("a",), (None,)]
    assert list(pool.map(tasks.same, items, chunksize=chunksize)) == items


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_submits_everything_at_once(pool: Executor, tmp_path: Path, chunksize: int) -> None:
    results = pool.map(tasks.touch, (tmp_path / f"ran-{n}" for n in range(6)), chunksize=chunksize)
    until(lambda: len(list(tmp_path.glob("ran-*"))) == 6)
    assert list(results) == [f"ran-{n}" for n in range(6)]


def test_map_gives_results_before_all_are_there(pool: Executor, gate: Path) -> None:
    results = pool.map(tasks.hold_from, range(6), [3] * 6, [gate] * 6)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    gate.touch()
    assert list(results) == [3, 4, 5]


def test_map_raises_error_in_order(pool: Executor) -> None:
    results = pool.map(tasks.fail_for, range(5), [3] * 5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert list(results) == []
    chunks = pool.map(tasks.fail_for, range(6), [2] * 6, chunksize=2)
    assert [next(chunks) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(chunks)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_cancels_the_rest_after_an_error(
    pool: Executor, gate: Path, tmp_path: Path, chunksize: int
) -> None:
    ran, count = tmp_path / "ran", 60
    results = pool.map(note_unless_first, range(count), [gate] * count, [ran] * count)
    with pytest.raises(ValueError, match="the first"):
        next(results)
    gate.touch()
    pool.shutdown()
    assert len(ran.read_text().split() if ran.exists() else []) < count / 2


def note_unless_first(number: int, gate: Path, ran: Path) -> None:
    if number == 0:
        raise ValueError("the first")
    hold(gate)
    tasks.note(str(number), ran)


def test_map_limits_the_time_for_all_results_together(pool: Executor, gate: Path) -> None:
    """Every result comes within that time after the one before it, but all do not."""
    assert list(pool.map(tasks.add, range(4))) == [0, 1, 2, 3]
    results = pool.map(tasks.hold_from, range(20), [1] * 20, [gate] * 20, timeout=0.5)
    assert next(results) == 0
    with pytest.raises(TimeoutError):
        next(results)
    gate.touch()
    assert list(results) == []
    with pytest.raises(TimeoutError):
        list(pool.map(tasks.same_later, range(8), [0.1] * 8, timeout=0.3))


def test_map_cancels_the_rest_when_its_iterator_is_closed(
    pool: Executor, gate: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    results = pool.map(hold_and_note, range(60), [gate] * 60, [ran] * 60)
    assert next(results) == 0
    assert isinstance(results, Iterator)
    results.close()  # type: ignore[attr-defined]
    gate.touch()
    pool.shutdown()
    assert len(ran.read_text().split() if ran.exists() else []) < 30


def hold_and_note(number: int, gate: Path, ran: Path) -> int:
    if number:
        hold(gate)
        tasks.note(str(number), ran)
    return number


@pytest.mark.parametrize("chunksize", [1, 2])
@processes_only
def test_map_cancels_the_rest_when_its_iterator_is_let_go_of(
    make: Make, tmp_path: Path, chunksize: int
) -> None:
    pool = make(1)
    paths = [tmp_path / f"{n:03}" for n in range(200)]
    assert any(pool.map(tasks.touch_late, paths, chunksize=chunksize))
    assert pool.submit(tasks.add, 1, 2).result(SOON) == 3
    assert len(list(tmp_path.iterdir())) < 100


def test_map_runs_all_without_reading_results(make: Make, tmp_path: Path) -> None:
    pool = make()
    pool.map(tasks.touch, [tmp_path / f"{n}" for n in range(20)])
    pool.shutdown()
    assert len(list(tmp_path.iterdir())) == 20


def test_an_iterable_that_raises_fails_map_at_once(pool: Executor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        pool.map(tasks.add, items())


@processes_only
def test_a_chunk_has_at_least_one_item(pool: Executor) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            pool.map(tasks.add, [1], chunksize=size)


# Shutting down


@spawn_too
def test_shutdown_waits_for_everything_submitted(pool: Executor, tmp_path: Path) -> None:
    calls = [pool.submit(tasks.touch, tmp_path / f"ran-{n}") for n in range(20)]
    pool.shutdown()
    assert all(call.done() and call.result() for call in calls)
    assert len(list(tmp_path.glob("ran-*"))) == 20


def test_nothing_is_taken_after_shutdown(pool: Executor) -> None:
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(tasks.add, 1)
    with pytest.raises(RuntimeError):
        pool.map(tasks.add, [1])
    assert list(pool.map(tasks.add, [])) == []


def test_shutdown_may_be_called_again(pool: Executor, gate: Path) -> None:
    call = pool.submit(hold, gate, 1)
    until(started(gate).exists)
    pool.shutdown(wait=False)
    pool.shutdown(wait=False)
    gate.touch()
    pool.shutdown()
    pool.shutdown()
    assert call.result(SOON) == 1


def test_shutdown_without_waiting_lets_everything_end(pool: Executor, gate: Path) -> None:
    calls = [*busy(pool, gate), *(pool.submit(tasks.add, n) for n in range(10))]
    pool.shutdown(wait=False)
    assert not calls[0].done()
    with pytest.raises(RuntimeError):
        pool.submit(tasks.add, 1)
    gate.touch()
    assert [call.result(SOON) for call in calls] == [0, 1, *range(10)]


def test_shutdown_may_cancel_what_has_not_begun(pool: Executor, gate: Path, kind: str) -> None:
    holding = busy(pool, gate)
    waiting = [pool.submit(tasks.add, n) for n in range(30)]
    pool.shutdown(wait=False, cancel_futures=True)
    until(lambda: sum(call.cancelled() for call in waiting) >= 25)
    gate.touch()
    assert [call.result(SOON) for call in holding] == [0, 1]
    pool.shutdown()
    if kind == "forkserver":  # the standard pool does not wait a second time
        until(lambda: all(call.done() for call in waiting))
    assert all(call.done() for call in waiting)


def test_a_with_block_waits_and_lets_its_error_pass(make: Make, tmp_path: Path) -> None:
    pool, calls = make(), list[Future[str]]()

    def use() -> None:
        with pool:
            calls.append(pool.submit(tasks.touch, tmp_path / "ran"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        use()
    assert calls[0].result(0) == "ran"
    with pytest.raises(RuntimeError):
        pool.submit(tasks.add, 1)


def test_a_pool_that_was_never_used_shuts_down(make: Make) -> None:
    make().shutdown()
    with make(1):
        pass


SCRIPT = """
import sys
from pathlib import Path
import pool_tasks as tasks

if __name__ == "__main__":
    pool = tasks.new_pool(sys.argv[1], 1)
    for name in ("one", "two"):
        pool.submit(tasks.touch_late, Path(sys.argv[2]) / name)
    other = tasks.new_pool(sys.argv[1], 1)
    {last}
"""


@spawn_too
@pytest.mark.parametrize("last", ["", "pool.shutdown(wait=False)", "del pool"])
def test_a_program_ends_when_all_it_submitted_is_done(kind: str, tmp_path: Path, last: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(last=last))
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(script), kind, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "one").exists()
    assert (tmp_path / "two").exists()


# Initializers

GLOBALS = """
import functools, sys
import pool_tasks as tasks

number = None
filled = {}

def begin(given):
    global number, made
    number, made = given, [given]
    fill(given)

def fill(given):
    filled["given"] = given

def add(*given):
    return number + sum(given)

def first(_):
    return helper()[0]

def helper():
    return made

def found(_):
    return filled

if __name__ == "__main__":
    with tasks.new_pool(sys.argv[1], 2, initializer=begin, initargs=(40,)) as pool:
        print(pool.submit(add, 2).result(), pool.submit(first, 0).result())
        print(pool.submit(found, 0).result())
        print(list(pool.map(add, range(4), range(4), chunksize=2)))
        print(pool.submit(functools.partial(add, 1), 2).result())
"""


@spawn_too
def test_script_functions_see_initializer_globals(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GLOBALS)
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(script), kind],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "42 40\n{'given': 40}\n[40, 42, 44, 46]\n43\n"


@spawn_too
def test_initializer_runs_once_per_worker_before_first_call(make: Make, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    pool = make(initializer=tasks.set_word, initargs=("word", begun))
    one, two = tmp_path / "one", tmp_path / "two"
    met = [pool.submit(tasks.meet, one, two), pool.submit(tasks.meet, two, one)]
    workers = {call.result(SOON) for call in met}
    words = [pool.submit(tasks.get_word) for _ in range(40)]
    assert {call.result(SOON)[1] for call in words} == {"word"}
    assert sorted(begun.read_text().splitlines()) == sorted(map(str, workers))


@spawn_too
def test_an_initializer_that_fails_breaks_the_pool(make: Make, tmp_path: Path) -> None:
    pool = make(initializer=tasks.fail_to_start, initargs=(tmp_path / "tried",))
    calls: list[Future[str]] = []

    def submit() -> None:
        for n in range(100_000):
            calls.append(pool.submit(tasks.touch, tmp_path / f"ran-{n}"))
            if n > 20:
                calls[0].exception(SOON)

    with pytest.raises(BrokenExecutor):
        submit()
    assert calls
    assert all(isinstance(call.exception(SOON), BrokenExecutor) for call in calls)
    assert not list(tmp_path.glob("ran-*"))
    with pytest.raises(BrokenExecutor):
        pool.map(tasks.add, [1])
    pool.shutdown()


@pytest.mark.parametrize("code", [0, 4])
@processes_only
def test_an_initializer_that_exits_breaks_the_pool(make: Make, code: int) -> None:
    pool = make(1, initializer=sys.exit, initargs=(code,))
    call = pool.submit(tasks.add, 1)
    assert isinstance(call.exception(SOON), BrokenExecutor)
    with pytest.raises(BrokenExecutor):
        pool.submit(tasks.add, 1)


@processes_only
def test_initializer_process_changes_stay(make: Make, tmp_path: Path) -> None:
    pool = make(1, initializer=tasks.settle, initargs=(tmp_path,))
    first, *others = (pool.submit(tasks.settled).result(SOON) for _ in range(3))
    helper = psutil.Process(first[-1])
    try:
        assert first[:-1] == (str(tmp_path), "settled", True, 0o027)
        assert others == [first, first]
        assert helper.is_running()
    finally:
        pool.shutdown()
        with suppress(psutil.NoSuchProcess):
            helper.kill()


def test_an_initializer_that_cannot_be_called_is_refused(make: Make) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        make(initializer=5)
