"""Tasks that would draw the same random numbers cause a warning; others do not."""

from __future__ import annotations

import functools
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import RandomNumbersRepeat
from encamp.jobs.job import Job
from encamp.jobs.steps import call

SOON = 30.0
GENERATORS: list[Callable[[], Any]] = [
    lambda: np.random.default_rng(1),
    lambda: np.random.RandomState(1),
    lambda: random.Random(1),
]


@pytest.fixture
def one(local_storage_base: Path, no_slots_left: None) -> Iterator[Cluster]:
    with Cluster("local", slots=1) as cluster:
        yield cluster


class Sampler:
    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def sample(self, _: int) -> float:
        return float(self.rng.random())


def repeated(act: Callable[[], Any]) -> list[tuple[str, tuple[str, ...], str]]:
    """What is warned of, and from which file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    found = [warning for warning in caught if warning.category is RandomNumbersRepeat]
    return [(w.message.function, w.message.names, w.filename) for w in found]  # type: ignore[union-attr]


@pytest.mark.parametrize("make", GENERATORS)
def test_a_function_that_uses_a_generator_is_named_with_it(
    one: Cluster, make: Callable[[], Any]
) -> None:
    rng = make()

    def draw(_: int) -> float:
        return float(rng.random())

    assert repeated(lambda: one.spawn(draw, 0).result(SOON)) == []
    ((name, names, file),) = repeated(lambda: [one.spawn(draw, n).result(SOON) for n in range(9)])
    assert name.endswith("draw")
    assert names == ("rng",)
    assert file == __file__
    text = str(RandomNumbersRepeat(name, names))
    assert "'rng', and all draw the same numbers" in text
    assert "SeedSequence" in text


@pytest.mark.parametrize("make", GENERATORS)
def test_a_generator_as_an_argument_or_in_one(one: Cluster, make: Callable[[], Any]) -> None:
    rng = make()
    assert len(repeated(lambda: [one.spawn(repr, rng).result(SOON) for _ in range(3)])) == 1
    sampler = Sampler(make())
    sampler.rng.random()
    ((_, names, _),) = repeated(
        lambda: [one.spawn(sampler.sample, n).result(SOON) for n in range(3)]
    )
    assert names == ("rng",)


def drawn(rng: Any, _: int = 0) -> float:
    return float(rng.random())


@pytest.mark.parametrize("make", GENERATORS)
def test_a_generator_in_a_partial(one: Cluster, make: Callable[[], Any]) -> None:
    for partial, name in ((functools.partial(drawn, make()), ""),
                          (functools.partial(drawn, rng=make()), "rng")):  # fmt: skip
        tasks = lambda draw=partial: [one.spawn(draw).result(SOON) for _ in range(3)]  # noqa: E731
        (found,) = repeated(tasks)
        assert found[:2] == ("drawn", (name,) if name else ())
        one._controller.functions.rng_warnings._warned.clear()


def test_a_generator_of_its_own_for_each_task_is_right(one: Cluster) -> None:
    rngs = [np.random.default_rng(seed) for seed in np.random.SeedSequence(1).spawn(5)]
    assert repeated(lambda: [one.spawn(repr, rng).result(SOON) for rng in rngs]) == []
    rng = np.random.default_rng(2)
    assert repeated(lambda: [one.spawn(repr, rng.spawn(1)[0]).result(SOON) for _ in "abc"]) == []


def test_a_generators_own_method_brings_the_generator_along(one: Cluster) -> None:
    drawn: list[float] = []
    warned = repeated(lambda: drawn.extend(one.spawn(random.random).result(SOON) for _ in "abc"))
    assert [name for name, _, _ in warned] == ["Random.random"]


def test_a_module_with_a_generator_has_one_in_each_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_storage_base: Path
) -> None:
    (tmp_path / "drawing.py").write_text(
        "import random\nrng = random.Random(1)\ndef one(): return rng.random()\n"
        "def draw(): return one()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import drawing  # type: ignore[import-not-found]

    assert isinstance(sys.modules["drawing"], types.ModuleType)
    with Cluster("local", slots=1) as cluster:
        (found,) = repeated(lambda: [cluster.spawn(drawing.draw).result(SOON) for _ in range(3)])
    assert found[:2] == ("draw", ("rng",))


def test_steps_of_a_job_are_looked_at_too(here: Path) -> None:
    rng = np.random.default_rng(1)

    def draw(_: int) -> None:
        rng.random()

    def make(tasks: int) -> None:
        job = Job("random", to="out")
        for n in range(tasks):
            job.add(f"t{n}", [call(draw, n)])
        job.run(slots=1, dry_run=True)

    assert repeated(lambda: make(1)) == []
    assert len(repeated(lambda: make(4))) == 1


def in_list() -> float:
    return float(numbers["list"][0].random())


def by_derived() -> float:
    return derived.random()


class Derived(random.Random):
    """A generator of the program's own."""


numbers = {"list": [random.Random(1)]}
derived = Derived(1)


@pytest.mark.parametrize("function", [in_list, by_derived])
def test_a_generator_in_a_collection_and_a_derived_one_are_found(
    one: Cluster, function: Callable[[], float]
) -> None:
    warned = repeated(lambda: [one.spawn(function).result(SOON) for _ in range(2)])
    assert [warning[0] for warning in warned] == [function.__name__]


class Anything:
    """An object that answers to any name, and has no attributes."""

    __slots__ = ()

    def __getattr__(self, name: str) -> None:
        raise RuntimeError(name)


anything = Anything()


def use_anything() -> bool:
    return type(anything).__name__ == "Anything"


def test_looking_for_generators_runs_no_code_of_other_objects(one: Cluster) -> None:
    assert one.spawn(use_anything).result(SOON)


@pytest.mark.parametrize(
    "within",
    [lambda g: [g], lambda g: {"a": (g,)}, lambda g: g.random],
    ids=["list", "dict", "method"],
)
def test_a_generator_within_an_argument(one: Cluster, within: Callable[[Any], Any]) -> None:
    def act() -> None:
        for _ in range(2):
            one.spawn(id, within(np.random.default_rng(1))).result(SOON)

    assert [warning[0] for warning in repeated(act)] == ["id"]
