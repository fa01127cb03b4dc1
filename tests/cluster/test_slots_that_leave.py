"""A slot whose process ends or is replaced loses no call that has not started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.managers import SyncManager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import psutil
import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import TaskLost
from encamp.jobs.job import Job
from encamp.jobs.steps import call, command
from encamp.slot.this_process import ThisProcess
from encamp.testing.waiting import until

SOON = 60.0


@pytest.fixture
def one(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    with Cluster("local", slots=1) as cluster:
        yield cluster


# Processes that a call leaves

_pool: ProcessPoolExecutor | None = None
_manager: SyncManager | None = None


def in_pool(context: str) -> int:
    global _pool
    if _pool is None:
        _pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(context))
    return _pool.submit(abs, -7).result(SOON)


def in_loky(_: str) -> int:
    from loky import get_reusable_executor

    value: int = get_reusable_executor(max_workers=1).submit(abs, -7).result(SOON)
    return value


def in_manager(_: str) -> int:
    global _manager
    if _manager is None:
        _manager = multiprocessing.Manager()
    return len(_manager.list(range(7)))


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize(
    ("use", "how"),
    [(in_pool, "fork"), (in_pool, "forkserver"), (in_loky, ""), (in_manager, "")],
)
def test_a_library_that_keeps_processes_works_in_each_call(
    one: Cluster, use: Callable[[str], int], how: str
) -> None:
    before = children()  # others than this cluster's, too
    assert [one.spawn(use, how).result(SOON) for _ in range(2)] == [7, 7]
    left = children() - before
    one.close()
    until(lambda: not any(map(psutil.pid_exists, left)))


def share() -> int:
    memory = SharedMemory(create=True, size=1)
    memory.close()
    memory.unlink()
    return os.getpid()


def test_a_helper_that_does_nothing_by_itself_is_left_alone(one: Cluster) -> None:
    first = one.spawn(share)
    assert first.result(SOON) == one.spawn(share).result(SOON)
    assert one.spawn(os.getpid).result(SOON) == first.result()
    assert first.output == ""


def forget_something() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


_servers: list[subprocess.Popen[bytes]] = []


def keep_something() -> int:
    _servers.append(subprocess.Popen(["sleep", "1000"]))
    return _servers[-1].pid


def keep_a_number() -> int:
    return os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)


@pytest.mark.parametrize(
    ("leave", "replaced"), [(forget_something, 0), (keep_something, 1), (keep_a_number, 1)]
)
def test_leftover_processes_end_and_slot_is_replaced_if_in_use(
    one: Cluster, leave: Callable[[], int], replaced: int
) -> None:
    before = one.spawn(os.getpid)
    tasks = [one.spawn(leave), *(one.spawn(os.getpid) for _ in range(5))]
    sleeper, *pids = [task.result(SOON) for task in tasks]
    assert len({before.result(SOON), *pids}) == 1 + replaced
    until(lambda: not psutil.pid_exists(sleeper))


def pool_step() -> None:
    Path("pid").write_text(f"{os.getpid()} {in_pool('fork')}")


def test_steps_of_a_job_may_use_such_a_library_too(here: Path) -> None:
    job = Job("pools", to="out")
    for number in range(2):
        job.add(f"t{number}", [call(pool_step)], outputs={"pid": f"{number}"})
    job.add("c", [command("sleep 1000 & echo $$ > pid", shell=True)], outputs={"pid": "c"})
    job.run(slots=1)
    lines = [(here / f"out/{n}/pid").read_text().split() for n in range(2)]
    pids, values = zip(*lines, strict=True)
    assert values == ("7", "7")
    assert len(set(pids)) == 2


# Signals to slots


def add_a_line(file: Path, number: int) -> int:
    with file.open("a") as counter:
        counter.write(f"{number}\n")
    return number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_an_idle_slot_that_gets_a_signal_loses_nothing(
    one: Cluster, number: signal.Signals, tmp_path: Path
) -> None:
    os.kill(one.spawn(os.getpid).result(SOON), number)
    tasks = [one.spawn(add_a_line, tmp_path / "lines", n) for n in range(10)]
    assert [task.result(SOON) for task in tasks] == list(range(10))
    lines = (tmp_path / "lines").read_text().split()
    assert sorted(map(int, lines)) == list(range(10))


def be_asked_to_end_just_before_the_next_call() -> int:
    slot = ThisProcess.slot
    assert slot is not None
    alone = slot.isolation

    class Late:
        def __enter__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            alone.__enter__()

        def __exit__(self, *exc: Any) -> Any:
            return alone.__exit__(*exc)

    slot.isolation = Late()  # type: ignore[assignment]
    return os.getpid()


def test_a_call_that_begins_as_its_slot_is_asked_to_end_runs_elsewhere(one: Cluster) -> None:
    before = one.spawn(be_asked_to_end_just_before_the_next_call).result(SOON)
    assert one.spawn(os.getpid).result(SOON) != before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_running_call_alone_is_lost_with_its_slot(
    one: Cluster, number: signal.Signals, tmp_path: Path
) -> None:
    def end_here(at: int) -> int:
        add_a_line(tmp_path / "lines", at)
        if at == 3:
            os.kill(os.getpid(), number)
            signal.pause()
        return at

    tasks = [one.spawn(end_here, at) for at in range(8)]
    lost = [at for at, task in enumerate(tasks) if task.exception(SOON) is not None]
    assert lost == [3]
    assert all(isinstance(tasks[at].exception(), TaskLost) for at in lost)
    lines = (tmp_path / "lines").read_text().split()
    assert sorted(map(int, lines)) == list(range(8))


def test_signals_at_any_moment_make_nothing_run_twice_or_not_at_all(
    one: Cluster, tmp_path: Path
) -> None:
    tasks: list[Any] = []
    for n in range(4):
        pid = one.spawn(os.getpid)
        tasks += [one.spawn(add_a_line, tmp_path / "lines", 200 * n + k) for k in range(200)]
        with suppress(TaskLost, ProcessLookupError):  # it may be the one that is hit
            os.kill(pid.result(SOON), signal.SIGKILL if n % 2 else signal.SIGTERM)
    lost = {at for at, task in enumerate(tasks) if task.exception(SOON) is not None}
    assert len(lost) <= 4
    lines = list(map(int, (tmp_path / "lines").read_text().split()))
    assert len(lines) == len(set(lines))
    assert set(range(len(tasks))) - set(lines) <= lost
