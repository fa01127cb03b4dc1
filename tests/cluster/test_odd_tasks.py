"""Tasks that do unusual things get clear errors and affect no others."""

from __future__ import annotations

import functools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.events import TaskExit, TaskResult
from encamp.errors import BadJob, CannotTravel, TaskLost, UnsupportedByEngine
from encamp.slot.current_task import current_task
from encamp.testing import work
from encamp.testing.waiting import until

SOON = 30.0


@pytest.fixture(params=[False, True], ids=["child", "inline"])
def cluster(
    request: pytest.FixtureRequest, local_storage_base: Path, no_slots_left: None
) -> Iterator[Cluster]:
    """A cluster of one slot, that still works at the end."""
    with Cluster("local", slots=1, inline=request.param) as cluster:
        yield cluster
        assert cluster.spawn(work.add, 1, 2).result(SOON) == 3


@pytest.fixture
def one(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    with Cluster("local", slots=1) as cluster:
        yield cluster
        assert cluster.spawn(work.add, 1, 2).result(SOON) == 3


# Ids


class Number(int):
    """An integer that no envelope has room for as it is."""


def send_to(whom: object) -> None:
    current_task().send(whom, "hello")  # type: ignore[arg-type]


@pytest.mark.parametrize("whom", [True, -1, 1 << 63, 1.0, "1", None])
def test_invalid_receiver_is_refused(cluster: Cluster, whom: object) -> None:
    with pytest.raises(TypeError, match="give a task or its id, not"):
        cluster.spawn(send_to, whom).result(SOON)


def test_a_number_of_a_class_of_its_own_is_a_number(cluster: Cluster) -> None:
    task = cluster.spawn(send_to, Number(0))
    got = cluster.receive(SOON, source=task)
    assert got is not None
    assert got.message == "hello"


def test_a_task_of_another_cluster_is_refused(cluster: Cluster) -> None:
    with Cluster("local", slots=1) as other:
        task = other.spawn(work.add, 1)
        for refused in (lambda: cluster.send(task, 1), lambda: cluster.receive(0, source=task)):
            with pytest.raises(TypeError, match=f"task {task.id} is not a task of this cluster"):
                refused()


def speak_later(now: Path, said: Path) -> None:
    me = current_task()

    def speak() -> None:
        until(now.exists)
        for call in (lambda: me.send(0, "who am I?"), lambda: me.receive(0)):
            try:
                call()
            except RuntimeError as exc:
                with said.open("a") as file:
                    file.write(f"{exc}\n")

    threading.Thread(target=speak, daemon=True).start()


def let_it_speak(now: Path, said: Path) -> Any:
    now.touch()
    until(lambda: said.exists() and said.read_text().count("\n") == 2)
    got = current_task().receive(SOON)
    return got and got.message


def test_a_thread_that_a_task_has_left_does_not_speak_for_the_next(
    cluster: Cluster, tmp_path: Path
) -> None:
    paths = tmp_path / "now", tmp_path / "said"
    first = cluster.spawn(speak_later, *paths)
    first.result(SOON)
    task = cluster.spawn(let_it_speak, *paths)
    cluster.send(task, "for you")
    assert task.result(SOON) == "for you"
    ended = f"task {first.id} has ended; its threads can no longer send or receive\n"
    assert paths[1].read_text() == 2 * ended
    events = [cluster.receive(0, source=task) for _ in range(3)]
    assert [type(got and got.message) for got in events] == [TaskResult, TaskExit, type(None)]


def write_nonsense() -> None:
    for fd in range(3, 100):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"nonsense" * 100)
    time.sleep(2 * SOON)


def test_a_slot_that_sends_nonsense_is_replaced(one: Cluster) -> None:
    assert isinstance(one.spawn(write_nonsense).exception(SOON), TaskLost)


# Errors


class ReadOnly(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("read-only")


class NoError(Exception):
    def __reduce__(self) -> Any:
        return str, ("no error",)


@dataclass(frozen=True)
class Frozen(Exception):
    number: int


class NoNetlist(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no netlist", path)
        self.path = path


class NoModel(ImportError):
    def __init__(self, model: str, version: int) -> None:
        super().__init__(f"{model} {version}", name=model)


class ByKeyword(Exception):
    def __new__(cls, *, number: int) -> ByKeyword:
        return super().__new__(cls)

    def __init__(self, *, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


class Two(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)
        self.one, self.two = one, two


def fail(make: Callable[[], BaseException]) -> NoReturn:
    raise make()


def fails(cluster: Cluster, make: Callable[[], BaseException]) -> Any:
    error = cluster.spawn(fail, make).exception(SOON)
    assert "in fail" in str(error and error.__cause__)
    return error


def test_odd_exception_affects_only_its_task(cluster: Cluster) -> None:
    assert type(fails(cluster, lambda: ReadOnly("x"))) is ReadOnly
    assert "'no error'" in str(fails(cluster, NoError))


def test_errors_keep_their_attributes(cluster: Cluster) -> None:
    netlist = fails(cluster, lambda: NoNetlist("/a"))
    assert str(netlist) == "[Errno 2] no netlist: '/a'"
    assert (netlist.errno, netlist.filename, netlist.path) == (2, "/a", "/a")
    assert fails(cluster, lambda: NoModel("bsim", 4)).name == "bsim"
    frozen = fails(cluster, lambda: Frozen(5))
    assert (type(frozen), frozen.number) == (Frozen, 5)
    by_keyword = fails(cluster, lambda: ByKeyword(number=3))
    assert (type(by_keyword), str(by_keyword), by_keyword.number) == (ByKeyword, "number 3", 3)
    locked = fails(cluster, lambda: LookupError("with", threading.Lock()))
    assert type(locked) is LookupError
    assert locked.args[0] == "with"
    assert "lock object" in locked.args[1]


def test_exception_group_keeps_all_errors(cluster: Cluster) -> None:
    group = fails(cluster, lambda: ExceptionGroup("two", [Two(1, 2), NoNetlist("/a")]))
    assert type(group) is ExceptionGroup
    two, netlist = group.exceptions
    assert (two.one, two.two, netlist.path) == (1, 2, "/a")


# Values


def double(array: Any) -> float:
    array *= 2
    return float(array.sum())


_kept = np.ones(100_000)


def kept() -> Any:
    return _kept


def test_neither_side_sees_what_the_other_does_to_an_array(cluster: Cluster) -> None:
    array = np.ones(100_000)
    assert cluster.spawn(double, array).result(SOON) == 200_000
    assert array.sum() == 100_000
    assert double(cluster.spawn(kept).result(SOON)) == 200_000
    assert cluster.spawn(kept).result(SOON).sum() == 100_000


def test_tasks_and_clusters_as_arguments_say_what_to_send(cluster: Cluster) -> None:
    task = cluster.spawn(work.add, 1)
    with pytest.raises(CannotTravel, match=r"a SpawnedTask cannot be pickled: .*; send its id"):
        cluster.spawn(print, task).result(SOON)
    with pytest.raises(
        CannotTravel,
        match=("a Cluster cannot be pickled: it belongs to the program that created it"),
    ):
        cluster.spawn(print, cluster).result(SOON)


# Functions


SCRIPT = """
import functools

@functools.cache
def squares(n):
    return [i * i for i in range(n)]

@functools.lru_cache(maxsize=64, typed=True)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

class Model:
    @functools.cache
    def gain(self):
        return 7

def run(n):
    return squares(n)[-1], fibonacci(60), fibonacci.cache_info().misses, Model().gain()

def gain():
    return gain.value
"""


@pytest.fixture
def script() -> dict[str, Any]:
    """The names of a script: they are found nowhere else."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(SCRIPT, names)
    return names


def test_functions_that_keep_results_travel_with_those_that_use_them(
    cluster: Cluster, script: dict[str, Any]
) -> None:
    assert cluster.spawn(script["run"], 4).result(SOON) == (9, 1548008755920, 61, 7)
    assert cluster.spawn(script["fibonacci"], 30).result(SOON) == 832040
    assert script["fibonacci"].cache_info().misses == 0
    assert cluster.spawn(functools.cache(work.add), 1, 2).result(SOON) == 3


def test_a_function_is_sent_with_the_attributes_that_it_has_now(
    cluster: Cluster, script: dict[str, Any]
) -> None:
    gain = script["gain"]
    for value in (1, 2):
        gain.value = value
        assert cluster.spawn(gain).result(SOON) == value


def test_wrapped_functions_and_those_that_keep_results_are_sent_once(one: Cluster) -> None:
    names: dict[str, Any] = {"__name__": "__main__", "functools": functools}
    exec(
        "def inner(n):\n    return n\n"
        "@functools.wraps(inner)\ndef wrapped(n):\n    return inner(n)\n"
        "kept = functools.cache(inner)\n",
        names,
    )
    functions = one._controller.functions
    for name in ("wrapped", "kept"):
        numbers = {functions.find(names[name], ())[0].number for _ in range(3)}
        assert len(numbers) == 1
        assert one.spawn(names[name], 5).result(SOON) == 5


# Options


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"inline": "yes"}, "inline: must be True, False or 'threads', not 'yes'"),
        ({"inline": 1}, "inline: must be True, False or 'threads', not 1"),
        ({"follow": "yes"}, "follow: must be True, False or a function, not 'yes'"),
    ],
)
def test_misspelt_options_of_a_cluster_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadJob) as caught:
        Cluster(**options)
    assert str(caught.value) == why


@pytest.mark.parametrize("name", [7, b"x", "two\nlines"])
def test_a_name_is_text_of_one_line(cluster: Cluster, name: Any) -> None:
    with pytest.raises(BadJob, match="name: must be a string of one line, not"):
        cluster.spawn(work.add, 1, name=name)


def test_a_time_limit_is_a_number(one: Cluster) -> None:
    with pytest.raises(BadJob, match="time_limit: must be a number of seconds above 0, not True"):
        one.spawn(work.add, 1, time_limit=True)


@pytest.mark.parametrize("inline", [True, "threads"])
def test_threads_have_no_gpus_of_their_own(inline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    refused = pytest.raises(UnsupportedByEngine, match="cannot give inline tasks separate GPUs")
    with Cluster("local", slots=2, inline=inline) as cluster, refused:
        cluster.spawn(work.add, 1, gpus=1)
