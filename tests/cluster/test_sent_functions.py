"""Functions: one copy each, here and in the slots; forgotten ones are sent again."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from encamp.cluster import sent_functions
from encamp.cluster.cluster import Cluster
from encamp.cluster.sent_functions import Functions
from encamp.cluster.task import usual_seconds
from encamp.executor import Executor
from encamp.slot.current_task import RUNNING_CALL
from encamp.slot.slot import Slot

SOON = 60.0


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A script, whose functions travel by value."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


@pytest.fixture(params=[False, True], ids=["child", "inline"])
def cluster(
    request: pytest.FixtureRequest, local_storage_base: Path, no_slots_left: None
) -> Iterator[Cluster]:
    with Cluster("local", slots=1, inline=request.param) as cluster:
        yield cluster


def define(module: types.ModuleType, code: str) -> Any:
    exec(code, vars(module))
    return module.f


def held() -> int:
    """How many functions this slot has."""
    here = RUNNING_CALL.get()
    assert here is not None
    slot, _ = here
    assert isinstance(slot, Slot)
    return len(slot._functions)


def test_a_function_that_uses_an_array_is_one_function_until_the_array_changes() -> None:
    array = np.ones(10_000)
    found = Functions()
    first = found.find(lambda: array, ())[0]
    assert first.name.endswith("<lambda>")

    def f() -> Any:
        return array

    same = [found.find(f, ())[0] for _ in range(5)]
    assert len({id(function) for function in same}) == 1
    array[0] = 2
    changed = found.find(f, ())[0]
    assert changed.number != same[0].number
    assert same[0].number not in found.kept.numbers
    assert changed.number in found.kept.numbers


def test_a_zero_that_changes_its_sign_is_another_value(script: types.ModuleType) -> None:
    function = define(script, "A = 0.0\ndef f(): return A")
    found = Functions()
    first = found.find(function, ())[0]
    assert found.find(function, ())[0] is first
    define(script, "A = -0.0")
    assert found.find(function, ())[0] is not first


@pytest.mark.parametrize(
    ("code", "change"),
    [
        pytest.param(
            "import functools, statistics\n"
            "SCALE = 1\n"
            "@functools.wraps(statistics.mean)\n"
            "def mean(*args): return SCALE * statistics.mean(*args)\n"
            "def f(): return mean([1])",
            "SCALE = 2",
            id="a wrapped function of a library",
        ),
        pytest.param(
            "D = {1: 1}\nget = D.get\ndef f(): return get(1)",
            "D[1] = 2",
            id="a built-in method of an object",
        ),
        pytest.param(
            "import types\nM = types.ModuleType('M')\nM.x = 1\ndef f(): return M.x",
            "M.x = 2",
            id="a module that is in no file",
        ),
        pytest.param(
            "M = {'__name__': 'M'}\nexec('K = 1\\ndef g(): return K', M)\n"
            "g = M['g']\ndef f(): return g()",
            "M['K'] = 2",
            id="a function of such a module",
        ),
        pytest.param(
            "import cloudpickle, odd_module\n"
            "cloudpickle.register_pickle_by_value(odd_module)\n"
            "f = odd_module.outer",
            "odd_module.K = 2",
            id="a module that is registered with cloudpickle",
        ),
    ],
)
def test_function_state_is_that_at_spawn(
    script: types.ModuleType,
    local_storage_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    change: str,
) -> None:
    module = types.ModuleType("odd_module")
    exec("K = 1\ndef inner(): return K\ndef outer(): return inner()", vars(module))
    monkeypatch.setitem(sys.modules, "odd_module", module)
    function = define(script, code)
    try:
        with Cluster("local", slots=1) as cluster:
            assert cluster.spawn(function).result(SOON) == 1
            exec(change, vars(script))
            assert cluster.spawn(function).result(SOON) == 2
    finally:
        if module.__name__ in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(module)


def test_a_function_defined_again_takes_the_place_of_the_old_one(script: types.ModuleType) -> None:
    found = Functions()
    numbers = [
        found.find(define(script, f"def f(): return {version}"), ())[0].number
        for version in range(3)
    ]
    assert [number in found.kept.numbers for number in numbers] == [False, False, True]


def test_kept_functions_are_limited_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_functions, "MOST_KEPT", 5)
    found = Functions()
    made = [(lambda n=n: n) for n in range(20)]
    numbers = [found.find(function, ())[0].number for function in made]
    assert list(found.kept.numbers) == numbers[-5:]
    monkeypatch.setattr(sent_functions, "MOST_BYTES", 100_000)
    large = [(lambda n=n: n) for n in (bytes(90_000), bytes(90_001), bytes(200_000))]
    numbers = [found.find(function, ())[0].number for function in large]
    assert list(found.kept.numbers) == numbers[-1:]


def test_a_function_that_is_kept_no_longer_is_free_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_functions, "MOST_KEPT", 1)
    found = Functions()
    gone = [weakref.ref(function) for function in _used(found, 3)]
    gc.collect()
    assert [known() is None for known in gone] == [True, True, False]


def _used(found: Functions, count: int) -> list[Callable[..., Any]]:
    made: list[Callable[..., Any]] = [(lambda n=n: n) for n in range(count)]
    for function in made:
        found.find(function, ())
    return made


def test_slots_forget_and_are_given_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_functions, "MOST_KEPT", 4)
    made = [(lambda n=n: n) for n in range(12)]
    for _ in range(2):  # also all at once, with more calls ahead than are kept
        tasks = [cluster.spawn(function, notify=False) for function in made]
        assert [task.result(SOON) for task in tasks] == list(range(12))
        for n, function in enumerate(made):
            assert cluster.spawn(function, notify=False).result(SOON) == n
    assert cluster.spawn(held, notify=False).result(SOON) <= 6
    assert len(cluster._controller.functions.kept.numbers) <= 4


def test_ended_tasks_keep_no_copy_of_their_function(cluster: Cluster) -> None:
    large = bytes(100_000)
    task = cluster.spawn(lambda: len(large))
    assert task.result(SOON) == 100_000
    assert cluster._controller.record(task) is None
    assert not any(isinstance(value, sent_functions.Function) for value in vars(task).values())
    assert usual_seconds(task) >= 0


def test_initializer_functions_are_dropped_with_executor(
    cluster: Cluster, script: types.ModuleType
) -> None:
    init = define(script, "def f(n):\n    global made\n    made = n")
    get = define(script, "def get():\n    return made\n\nf = get")
    for n in range(3):
        with Executor(cluster, initializer=init, initargs=(n,)) as executor:
            assert executor.submit(get).result(SOON) == n
    assert cluster.spawn(initializers).result(SOON) == 0
    assert cluster._controller.setups.kept == {}


def initializers() -> int:
    here = RUNNING_CALL.get()
    assert here is not None
    slot, _ = here
    assert isinstance(slot, Slot)
    return len(slot._initialized)


def test_functions_that_are_dropped_take_no_room_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sent_functions, "MOST_BYTES", 100)
    kept = sent_functions.RecentFunctions()
    made = [sent_functions.Function(n, len, bytes(40), by_value=True) for n in range(6)]
    for function in made[:2]:
        kept.add(function)
        kept.add(function)  # once more: it counts once
    assert list(kept.numbers) == [0, 1]
    kept.drop(made[0])
    kept.drop(made[0])
    kept.add(made[2])
    assert list(kept.numbers) == [1, 2]
    kept.add(made[3])
    assert list(kept.numbers) == [2, 3]
    assert kept.changes == 2
