"""Functions that fork and coroutine functions, as tasks and as steps."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp.cluster.cluster import Cluster
from encamp.errors import BadJob, CannotTravel, TaskLost
from encamp.jobs.job import Job
from encamp.jobs.steps import call
from encamp.slot.current_task import current_task

SOON = 30.0


@pytest.fixture(params=[False, True], ids=["child", "inline"])
def cluster(
    request: pytest.FixtureRequest, local_storage_base: Path, no_slots_left: None
) -> Iterator[Cluster]:
    with Cluster("local", slots=1, inline=request.param) as cluster:
        pid = cluster.spawn(os.getpid).result(SOON)
        yield cluster
        assert cluster.spawn(os.getpid).result(SOON) == pid


def fork_unseen() -> int:
    """Fork as compiled code does, without Python's hooks, and wait for the child's end.

    A thread that has requested the interpreter lock does not exist in the child, which would wait
    for it for ever. So none may request it just now.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SOON)
    pid = int(ctypes.PyDLL(None).fork())
    if not pid:
        return 0
    sys.setswitchinterval(before)
    until = time.monotonic() + SOON / 2
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError("the child has not ended")
        time.sleep(0.01)
    return pid


def test_a_child_of_compiled_code_is_no_slot(cluster: Cluster) -> None:
    pid = cluster.spawn(fork_unseen).result(SOON)
    assert pid > 0
    assert cluster.spawn(fork_unseen).result(SOON) > 0


def status_of(end: Callable[[], Any]) -> int:
    """What a child ends with that comes back from this function by ``end()``."""
    pid = os.fork()
    if not pid:
        return end()  # type: ignore[no-any-return]
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def raise_error() -> None:
    raise ValueError("in a child")


def speak() -> None:
    for use in (lambda: current_task().send(0, "no"), lambda: current_task().receive(0)):
        try:
            use()
        except RuntimeError as exc:
            assert str(exc) == "a process that a task has forked can neither send nor receive"  # noqa: PT017
        else:
            os._exit(9)
    sys.exit(7)


def exit_with(code: object) -> Callable[[], None]:
    return lambda: sys.exit(code)  # type: ignore[arg-type]


CHILDREN: list[tuple[Callable[[], Any], int]] = [
    (exit_with(4), 4),
    (exit_with(None), 0),
    (exit_with("a reason"), 1),
    (exit_with(300), 44),
    (raise_error, 1),
    (lambda: None, 0),
    (speak, 7),
]


def test_returning_forked_child_ends_like_program(cluster: Cluster, tmp_path: Path) -> None:
    for end, status in CHILDREN:
        assert cluster.spawn(status_of, end).result(SOON) == status
    folder = cluster.spawn(status_of, raise_error, outputs={"none": "."}, mirror=[])
    assert "none" in str(folder.exception(SOON)), "the parent went on to the end, and only it"


def fork_in_step(name: str) -> None:
    assert status_of(exit_with(4)) == 4
    Path(name).write_text("once")


def test_forking_step_runs_once(here: Path) -> None:
    job = Job("forks", to="out")
    job.add("one", [call(fork_in_step, "made")], outputs={"made": "."})
    assert job.run(slots=1).count("done") == 1
    assert (here / "out/made").read_text() == "once"


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


async def raise_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("later")


async def write_later(name: str) -> str:
    await asyncio.sleep(0)
    Path(name).write_text("made")
    return "written"


def test_a_coroutine_is_run_to_its_end(cluster: Cluster, here: Path) -> None:
    assert cluster.spawn(later, 1).result(SOON) == 2
    assert str(cluster.spawn(raise_later).exception(SOON)) == "later"
    with encamp.Executor(cluster) as executor:
        assert list(executor.map(later, range(3))) == [1, 2, 3]
    if not cluster._controller.inline:
        task = cluster.spawn(write_later, "file", outputs={"file": "."})
        assert task.result(SOON) == "written"
        assert (here / "file").read_text() == "made"


def fork_if_odd(number: int) -> int:
    pid = os.fork() if number % 2 else -1
    if pid > 0:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with Path(f"called-{number}").open("a") as file:
        file.write("." * (pid != 0))
    return number


def test_chunks_of_a_map_are_called_as_tasks_are(cluster: Cluster, here: Path) -> None:
    async def plus(number: int, more: int = 1) -> int:
        await asyncio.sleep(0)
        return number + more

    with encamp.Executor(cluster) as executor:
        for size in (1, 2):
            assert list(executor.map(plus, range(4), chunksize=size)) == [1, 2, 3, 4]
            assert list(executor.map(plus, range(3), range(3), chunksize=size)) == [0, 2, 4]
        with encamp.Executor("local", slots=1, startup_dir=here) as own:
            assert list(own.map(fork_if_odd, range(4), chunksize=4)) == [0, 1, 2, 3]
        assert [Path(f"called-{n}").read_text() for n in range(4)] == [".", ".", ".", "."]


def test_an_initializer_may_be_a_coroutines_function(local_storage_base: Path, here: Path) -> None:
    made = here / "made"
    with encamp.Executor(slots=1, initializer=write_later, initargs=(str(made),)) as executor:
        assert executor.submit(abs, -1).result(SOON) == 1
    assert made.exists()


def test_a_step_may_be_a_coroutines_function(here: Path) -> None:
    job = Job("later", to="out")
    job.add("one", [call(write_later, "made")], outputs={"made": "."})
    assert job.run(slots=1).tasks[0].value == "written"


def test_sandboxed_coroutine_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"would be removed before .*; use `with encamp.sandbox"):
        encamp.sandboxed()(later)


def test_errors_are_also_those_of_standard_pools(local_storage_base: Path) -> None:
    from concurrent.futures import BrokenExecutor
    from pickle import PicklingError

    with pytest.raises(ValueError, match="slots: must be"):
        Cluster("local", slots=0)
    with pytest.raises(ValueError, match="slots: must be at most 1,000,000, not 1,000,000,000"):
        Cluster("local", slots=10**9)
    for kind, standard in [
        (CannotTravel, PicklingError),
        (BadJob, ValueError),
        (TaskLost, BrokenExecutor),
    ]:
        assert issubclass(kind, standard)
