"""Features of the executor beyond those of the standard pools."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pool_tasks as tasks
import psutil
import pytest
from pool_tasks import hold, started

from encamp.agent.process_slot import ProcessSlot
from encamp.cluster.cluster import Cluster, port_of
from encamp.errors import (
    CannotTravel,
    ClusterClosed,
    InitializerFailed,
    NoSuchHost,
    NotEnough,
    TaskKilled,
    TaskLost,
    TimeLimitExceeded,
)
from encamp.executor import Executor
from encamp.testing.waiting import until

SOON = 60.0


@pytest.fixture
def pool(local_storage_base: Path, no_slots_left: None) -> Iterator[Executor]:
    with Executor("local", slots=2) as pool:
        yield pool


@pytest.fixture
def cluster(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    with Cluster("local", slots=2) as cluster:
        yield cluster


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "gate"
    yield path
    path.touch()


def any_call(future: Future[Any]) -> Any:
    """A future as what it is, a task."""
    return future


# Whose cluster


def test_an_executor_leaves_a_cluster_open_that_is_not_its_own(cluster: Cluster) -> None:
    for _ in range(2):
        with Executor(cluster) as pool:
            assert pool.cluster is cluster
            assert pool.submit(tasks.add, 1).result(SOON) == 1
        with pytest.raises(ClusterClosed, match="the executor is closed"):
            pool.submit(tasks.add, 1)
    assert cluster.spawn(tasks.add, 2).result(SOON) == 2


def test_an_executor_closes_its_own_cluster(pool: Executor) -> None:
    pool.shutdown()
    with pytest.raises(ClusterClosed):
        pool.cluster.spawn(tasks.add, 1)


def test_an_executor_waits_for_its_own_tasks_only(cluster: Cluster, gate: Path) -> None:
    other = cluster.spawn(hold, gate, notify=False)
    until(started(gate).exists)
    with Executor(cluster) as pool:
        mine = [pool.submit(tasks.add, n) for n in range(10)]
    assert all(call.done() for call in mine)
    assert not other.done()


def test_shutting_down_cancels_its_own_tasks_only(cluster: Cluster, gate: Path) -> None:
    gates = [gate.with_name(f"gate-{n}") for n in range(2)]
    for path in gates:
        path.symlink_to(gate)
        cluster.spawn(hold, path, notify=False)
    until(lambda: all(started(path).exists() for path in gates))
    one, two = Executor(cluster), Executor(cluster)
    ones = [one.submit(tasks.add, n) for n in range(10)]
    twos = [two.submit(tasks.add, n) for n in range(10)]
    one.shutdown(cancel_futures=True)
    assert all(call.cancelled() for call in ones)
    gate.touch()
    assert [call.result(SOON) for call in twos] == list(range(10))
    two.shutdown()


def test_existing_cluster_refuses_slots_and_engine_options(cluster: Cluster) -> None:
    with pytest.raises(TypeError, match="an existing cluster takes no slots"):
        Executor(cluster, slots=2)
    with pytest.raises(TypeError, match="an existing cluster takes no inline"):
        Executor(cluster, inline=True)


def test_shutdown_waits_although_one_before_did_not(pool: Executor, gate: Path) -> None:
    call = pool.submit(hold, gate, 1)
    until(started(gate).exists)
    pool.shutdown(wait=False)
    opener = threading.Timer(0.1, gate.touch)
    opener.start()
    pool.shutdown()
    assert call.result(0) == 1
    opener.join()


def test_unreferenced_executor_ends_its_slots(
    local_storage_base: Path, no_slots_left: None
) -> None:
    pool = Executor("local", slots=1)
    view, gone = pool.options(name="view"), weakref.ref(pool)
    del pool
    pid = view.submit(os.getpid).result(SOON)
    del view
    gc.collect()
    assert gone() is None
    until(lambda: not psutil.pid_exists(pid))


def test_an_executor_lives_while_its_tasks_do(
    local_storage_base: Path, no_slots_left: None, gate: Path
) -> None:
    pool = Executor("local", slots=1)
    pid = pool.submit(os.getpid).result(SOON)
    calls = [pool.submit(hold, gate, n) for n in range(3)]
    del pool
    gc.collect()
    gate.touch()
    assert [call.result(SOON) for call in calls] == [0, 1, 2]
    del calls
    gc.collect()
    until(lambda: not psutil.pid_exists(pid))


# Options


def read_and_write(name: str) -> str:
    text = Path(name).read_text()
    Path("out.txt").write_text(text.upper())
    return str(Path.cwd())


def test_tasks_get_their_files_and_give_their_outputs(pool: Executor, here: Path) -> None:
    (here / "in.txt").write_text("what goes in")
    filed = pool.options(mirror="in.txt", outputs={"out.txt": "results"})
    call = filed.submit(read_and_write, "in.txt")
    folder = Path(call.result(SOON))
    assert (here / "results" / "out.txt").read_text() == "WHAT GOES IN"
    assert not folder.exists()
    assert pool.submit(os.getcwd).result(SOON) != str(folder)


def test_the_executors_options_hold_for_all_its_tasks(
    local_storage_base: Path, no_slots_left: None, here: Path
) -> None:
    (here / "in.txt").write_text("text")
    with Executor("local", slots=2, mirror="in.txt") as pool:
        folders = list(pool.map(tasks_folder, range(4)))
    assert [names for names, _ in folders] == [["in.txt"]] * 4
    assert len({folder for _, folder in folders}) == 4


def tasks_folder(_: int) -> tuple[list[str], str]:
    return sorted(path.name for path in Path.cwd().iterdir()), str(Path.cwd())


def test_options_are_added_to_those_before(pool: Executor, gate: Path) -> None:
    host = pool.cluster.hosts()[0]
    limited = pool.options(time_limit=0.2).options(on=host, name="long one")
    with pytest.raises(TimeLimitExceeded, match=r"long one ran longer than its limit of 0\.2 s"):
        limited.submit(hold, gate).result(SOON)
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_fresh_tasks_have_a_process_of_their_own(pool: Executor) -> None:
    fresh = pool.options(fresh=True)
    pids = [fresh.submit(os.getpid).result(SOON) for _ in range(3)]
    assert len(set(pids)) == 3


def test_impossible_needs_are_refused_at_once(pool: Executor) -> None:
    with pytest.raises(NoSuchHost, match="elsewhere"):
        pool.options(on="elsewhere").submit(tasks.add, 1)
    with pytest.raises(NotEnough, match="100000 cores"):
        pool.options(cores=100_000).submit(tasks.add, 1)
    with pytest.raises(TypeError, match="colour"):
        pool.options(colour="red")  # type: ignore[call-arg]
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_derived_executor_ends_with_its_base_but_not_vice_versa(pool: Executor, gate: Path) -> None:
    view, other = pool.options(name="view"), pool.options(name="other")
    slow = pool.submit(hold, gate, 1)
    with view:
        quick = view.submit(tasks.add, 1)
    assert quick.done()
    assert not slow.done()
    with pytest.raises(ClusterClosed):
        view.submit(tasks.add, 1)
    calls = [pool.submit(tasks.add, 2), other.submit(tasks.add, 3)]
    gate.touch()
    pool.shutdown()
    assert [call.result(0) for call in calls] == [2, 3]
    with pytest.raises(ClusterClosed):
        other.submit(tasks.add, 1)


# Tasks that end badly


def test_a_worker_that_dies_fails_its_task_alone(pool: Executor, gate: Path) -> None:
    held = pool.submit(hold, gate, "held")
    until(started(gate).exists)
    before = [pool.submit(tasks.add, n) for n in range(5)]
    bad = pool.submit(tasks.crash, 3)
    after = [pool.submit(tasks.add, n) for n in range(50)]
    with pytest.raises(TaskLost, match="ended with exit status 3"):
        bad.result(SOON)
    assert [call.result(SOON) for call in before + after] == [*range(5), *range(50)]
    gate.touch()
    assert held.result(SOON) == "held"


def test_many_workers_may_die(pool: Executor) -> None:
    functions: list[Any] = [tasks.same, tasks.same, tasks.same, tasks.crash]
    calls = [pool.submit(functions[n % 4], n) for n in range(24)]
    ended = [call.exception(SOON) for call in calls]
    assert [type(error) for error in ended] == ([type(None)] * 3 + [TaskLost]) * 6


def test_a_running_task_can_be_killed(pool: Executor, gate: Path) -> None:
    call = any_call(pool.submit(hold, gate))
    until(started(gate).exists)
    call.kill()
    with pytest.raises(TaskKilled):
        call.result(SOON)
    assert pool.submit(tasks.add, 1).result(SOON) == 1


def test_unreconstructible_error_is_returned(pool: Executor) -> None:
    bad, good = pool.submit(tasks.fail_unreadably), pool.submit(tasks.add, 1)
    with pytest.raises(tasks.HardToRead, match="this and that"):
        bad.result(SOON)
    assert good.result(SOON) == 1


def test_unpicklable_value_is_named(pool: Executor) -> None:
    error = pool.submit(tasks.same, threading.Lock()).exception(SOON)
    assert isinstance(error, CannotTravel)
    assert "_thread.lock" in str(error)


def test_the_remote_traceback_names_task_and_host(pool: Executor) -> None:
    host = pool.cluster.hosts()[0].name
    call = any_call(pool.submit(tasks.dig, 2))
    assert f"task {call.id} on {host}" in str(call.exception(SOON).__cause__)


# What travels


def test_functions_without_a_name_can_be_submitted(pool: Executor) -> None:
    factor = 3

    def times(number: int) -> int:
        return factor * number

    assert pool.submit(lambda: factor).result(SOON) == 3
    assert pool.submit(times, 2).result(SOON) == 6
    assert pool.submit(partial(times, 5)).result(SOON) == 15
    assert pool.submit("a-b".split, "-").result(SOON) == ["a", "b"]


@pytest.mark.parametrize("chunksize", [1, 2, None])
def test_map_takes_functions_without_a_name(pool: Executor, chunksize: int | None) -> None:
    factor = 3
    one = pool.map(lambda a: factor * a, range(5), chunksize=chunksize)
    two = pool.map(lambda a, b: factor * a + b, range(5), range(5), chunksize=chunksize)
    part = pool.map(partial(tasks.add, factor), range(5), chunksize=chunksize)
    assert [list(one), list(two), list(part)] == [
        [0, 3, 6, 9, 12],
        [0, 4, 8, 12, 16],
        [3, 4, 5, 6, 7],
    ]


def test_a_closure_that_has_changed_travels_as_it_is_now(pool: Executor) -> None:
    seen = [1]

    def look(_: int) -> list[int]:
        return seen

    first = list(pool.map(look, range(4), chunksize=2))
    seen.append(2)
    second = list(pool.map(look, range(4), chunksize=2))
    assert (first, second) == ([[1]] * 4, [[1, 2]] * 4)


# Map


@pytest.fixture
def arguments(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every task as they are spawned."""
    seen: list[tuple[Any, ...]] = []
    spawn = port_of(pool.cluster).spawn

    def spy(function: Any, args: tuple[Any, ...], kwargs: Any, options: Any) -> Any:
        seen.append(args)
        return spawn(function, args, kwargs, options)

    monkeypatch.setattr(port_of(pool.cluster), "spawn", spy)
    return seen


@pytest.mark.parametrize(("chunksize", "expected"), [(1, 100), (7, 15), (100, 1), (1000, 1)])
def test_a_chunk_is_one_task(
    pool: Executor, arguments: list[Any], chunksize: int, expected: int
) -> None:
    assert list(pool.map(tasks.same, range(100), chunksize=chunksize)) == list(range(100))
    assert len(arguments) == expected


def test_a_good_chunk_size_is_chosen_if_wanted(pool: Executor, arguments: list[Any]) -> None:
    for count, expected in ((0, 0), (1, 1), (16, 16), (17, 9), (8000, 16), (100_000, 100)):
        arguments.clear()
        numbers = iter(range(count))
        assert list(pool.map(tasks.same, numbers, chunksize=None)) == list(range(count))
        assert len(arguments) == expected, count


@pytest.mark.parametrize(
    "items", [range(0, 5000, 5), np.arange(1000), np.zeros((1000, 3))], ids=type
)
def test_chunks_of_ranges_and_arrays_travel_in_few_bytes(
    pool: Executor, arguments: list[tuple[Any, ...]], items: Any
) -> None:
    got = list(pool.map(tasks.same, items, chunksize=100))
    assert len(got) == 1000
    assert all(np.array_equal(a, b) for a, b in zip(got, items, strict=True))
    assert len(arguments) == 10
    most = len(pickle.dumps(list(items)[:100], 5)) * 0.6
    sizes = {len(pickle.dumps(args, 5)) for args in arguments}
    assert max(sizes) < most, (sizes, most)


def test_a_function_without_a_name_does_not_go_with_every_chunk(
    pool: Executor, arguments: list[tuple[Any, ...]]
) -> None:
    ballast = bytes(100_000)
    one = pool.map(lambda n: n + len(ballast), range(50), chunksize=5)
    two = pool.map(lambda n, m: n + m + len(ballast), range(50), range(50), chunksize=5)
    assert list(one) == list(range(100_000, 100_050))
    assert list(two) == list(range(100_000, 100_100, 2))
    assert len(arguments) == 20
    assert max(len(cloudpickle.dumps(args)) for args in arguments) < 1000


def test_with_a_buffersize_items_are_taken_as_results_are(pool: Executor) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = pool.map(tasks.same, numbers(), buffersize=3)
    assert len(taken) == 3
    for n in range(10):
        assert next(results) == n
        assert len(taken) == n + 4
    chunks = pool.map(tasks.same, iter(range(10**12)), chunksize=10, buffersize=3)
    assert [next(chunks) for _ in range(50)] == list(range(50))
    assert list(pool.map(tasks.same, range(5), buffersize=100)) == list(range(5))
    with pytest.raises(ValueError, match="buffersize"):
        pool.map(tasks.same, [], buffersize=0)


def test_map_keeps_no_results_that_were_taken(pool: Executor) -> None:
    for chunksize in (1, 3):
        results = pool.map(tasks.hold_none, range(9), chunksize=chunksize)
        kept = [weakref.ref(next(results)) for _ in range(9)]
        assert [ref() for ref in kept] == [None] * 9


# Ctrl-C

_ENDLESS = """\
import sys, threading, time
from encamp import Executor

def main_module_runs():
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_name == "<module>"

def tell():
    while main_module_runs():
        time.sleep(0.01)
    time.sleep(0.2)
    print("running", flush=True)

if __name__ == "__main__":
    pool = Executor("local", slots=2)
    calls = [pool.submit(time.sleep, 600) for _ in range(5)]
    while not calls[1].running():
        time.sleep(0.005)
    if sys.argv[1] == "with":
        with pool:
            print("running", flush=True)
            calls[0].result()
    else:
        threading.Thread(target=tell, daemon=True).start()
"""


@pytest.mark.parametrize("where", ["with", "exit"])
def test_ctrl_c_ends_what_runs_and_the_program(where: str, tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS)
    command = [sys.executable, str(script), where]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        children = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=SOON)
    assert errors.count("Traceback") == (where == "with")
    until(lambda: not any(child.is_running() for child in children))


FORKS = """
import os, sys, time
from encamp.errors import ClusterClosed
from encamp.executor import Executor
from encamp.testing.work import add

def said(call):
    try:
        return call()
    except ClusterClosed as exc:
        return exc

with Executor("local", slots=2, inline=sys.argv[1] == "inline") as pool:
    pool.submit(add, 1, 2).result()
    slow = pool.submit(time.sleep, 0.5)
    child = os.fork()
    if child == 0:
        calls = lambda: pool.submit(add, 1, 2), slow.result, lambda: pool.cluster.receive(1)
        print(*{str(said(call)) for call in calls}, flush=True)
        sys.exit()
    print(sum(pool.map(add, range(500), range(500))), os.waitpid(child, 0)[1], slow.result())
"""


@pytest.mark.parametrize("kind", ["local", "inline"])
def test_a_forked_process_takes_nothing_from_its_parent(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, kind], capture_output=True, text=True, timeout=SOON
    )
    assert (done.returncode, done.stderr) == (0, "")
    closed = "in a forked process, its parent's cluster is closed; create a new one"
    assert sorted(done.stdout.splitlines()) == ["249500 0 None", closed]


# Initializers


def test_a_new_process_in_place_of_a_dead_one_is_initialized(
    local_storage_base: Path, no_slots_left: None, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Executor("local", slots=1, initializer=tasks.set_word, initargs=("w", begun)) as pool:
        first = pool.submit(tasks.get_word).result(SOON)
        assert isinstance(pool.submit(tasks.crash).exception(SOON), TaskLost)
        second = pool.submit(tasks.get_word).result(SOON)
        fresh = pool.options(fresh=True).submit(tasks.get_word).result(SOON)
    assert [first[1], second[1], fresh[1]] == ["w", "w", "w"]
    assert len({first[0], second[0], fresh[0]}) == 3
    assert len(begun.read_text().splitlines()) == 3


def test_initializer_processes_survive_and_task_processes_end(
    local_storage_base: Path, no_slots_left: None, tmp_path: Path
) -> None:
    with Executor("local", slots=1, initializer=tasks.settle, initargs=(tmp_path,)) as pool:
        helper = psutil.Process(pool.submit(tasks.settled).result(SOON)[-1])
        pool.submit(os.chdir, "/usr").result(SOON)
        started = pool.submit(tasks.start_something).result(SOON)
        again = pool.submit(tasks.settled).result(SOON)
        assert (again[0], again[-1]) == (str(tmp_path), helper.pid)
        assert not psutil.pid_exists(started)
    assert not helper.is_running()


_begun: list[subprocess.Popen[bytes]] = []


def begin_stubbornly() -> None:
    """An initializer that ignores SIGTERM, and starts something that ends by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _begun.append(subprocess.Popen(["sh", "-c", "exit 3"]))


def its_end() -> int:
    return _begun[0].wait()


def test_a_slot_can_be_ended_and_a_helper_be_waited_for_whatever_an_initializer_did(
    local_storage_base: Path, no_slots_left: None, tmp_path: Path
) -> None:
    with Executor("local", slots=1, initializer=begin_stubbornly) as pool:
        for _ in range(3):
            pool.submit(tasks.start_something).result(SOON)
        assert pool.submit(its_end).result(SOON) == 3
        handler = pool.submit(signal.getsignal, signal.SIGTERM).result(SOON)
        assert handler is not signal.SIG_IGN


@pytest.mark.parametrize("inline", [False, True])
def test_executors_on_one_cluster_have_initializers_of_their_own(
    local_storage_base: Path, no_slots_left: None, tmp_path: Path, inline: bool
) -> None:
    by_value: dict[str, Any] = {"word": None, "__name__": "__main__"}
    exec(
        "def put(given):\n    global word\n    word = given\ndef get():\n    return word", by_value
    )
    with Cluster(slots=1, inline=inline) as cluster:
        made = [Executor(cluster, initializer=by_value["put"], initargs=(n,)) for n in range(2)]
        calls = [[pool.submit(by_value["get"]) for pool in made] for _ in range(3)]
        assert [[call.result(SOON) for call in turn] for turn in calls] == [[0, 1]] * 3
        assert cluster.spawn(by_value["get"]).result(SOON) is None


def test_an_initializer_that_cannot_travel_says_so(cluster: Cluster) -> None:
    with Executor(cluster, initializer=print, initargs=(threading.Lock(),)) as pool:
        error = pool.submit(tasks.add, 1).exception(SOON)
    assert isinstance(error, CannotTravel)
    assert str(error).startswith("the initializer print, or an argument of it, cannot be sent")


def test_a_broken_executor_says_why_and_leaves_the_cluster_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    tried = tmp_path / "tried"
    with Executor(cluster, initializer=tasks.fail_to_start, initargs=(tried,)) as pool:
        calls = []
        with suppress(InitializerFailed):  # it may be known before the last one is submitted
            for number in range(1000):
                calls.append(pool.submit(tasks.add, number))  # noqa: PERF401
        wait(calls, SOON)
        errors = [call.exception(0) for call in calls]
        assert {type(error) for error in errors} == {InitializerFailed}
        assert "no licence to be had" in str(errors[0])
        with pytest.raises(InitializerFailed, match=r"fail_to_start failed on .*no licence"):
            pool.submit(tasks.add, 1)
        with pytest.raises(BrokenExecutor):
            pool.options(name="other").submit(tasks.add, 1)
    assert len(tried.read_text().splitlines()) < 500
    with Executor(cluster) as other:
        assert other.submit(tasks.add, 1).result(SOON) == 1


def test_a_task_that_runs_when_the_executor_breaks_in_another_slot_ends_well(
    local_storage_base: Path, no_slots_left: None, tmp_path: Path, gate: Path
) -> None:
    once = tmp_path / "once"
    with Executor("local", slots=2, initializer=tasks.start_once, initargs=(once,)) as pool:
        running = pool.submit(hold, gate, 5)
        until(started(gate).exists)
        assert isinstance(pool.submit(tasks.add, 1).exception(SOON), InitializerFailed)
        assert not running.done()
        gate.touch()
        assert running.result(SOON) == 5


class _Begins:
    """An initializer that holds much memory."""

    def __call__(self) -> None:
        pass


def test_a_shared_cluster_keeps_no_initializer_of_an_executor_that_has_ended(
    cluster: Cluster,
) -> None:
    begins = _Begins()
    seen = weakref.ref(begins)
    with Executor(cluster, initializer=begins) as pool:
        assert pool.submit(tasks.add, 1).result(SOON) == 1
    del pool, begins
    until(lambda: gc.collect() >= 0 and seen() is None)


def _nothing(*_: object) -> None:
    pass


def test_initializer_is_sent_to_each_slot_once(
    local_storage_base: Path, no_slots_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, not in an envelope, which has a limit; a killed slot's successor gets it anew."""
    sizes: list[int] = []
    real = ProcessSlot.give

    def give(self: ProcessSlot, envelope: Any, parts: Any) -> None:
        sizes.extend(len(part) for part in parts)
        real(self, envelope, parts)

    monkeypatch.setattr(ProcessSlot, "give", give)
    with Executor("local", slots=1, initializer=_nothing, initargs=(bytes(1 << 20),)) as pool:
        for _ in range(20):
            pool.submit(_nothing).result(SOON)
        with pytest.raises(TaskLost):
            pool.submit(os._exit, 1).result(SOON)
        pool.submit(_nothing).result(SOON)
        fresh = pool.options(fresh=True)
        fresh.submit(_nothing).result(SOON)
    assert sorted(size >> 20 for size in sizes)[-4:] == [0, 1, 1, 1]
