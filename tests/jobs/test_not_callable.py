"""A step that is the result of a call is refused at once, with the correct form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import encamp
from encamp.errors import BadJob, CannotTravel, NotCallable


def area(side: float) -> float:
    return side * side


async def later() -> None:
    """Return when it is waited for."""


def _job() -> encamp.Job:
    return encamp.Job("job", to="out")


MISTAKES: dict[str, Callable[[], Any]] = {
    "call": lambda: encamp.call(area(2.0)),  # type: ignore[arg-type]
    "call of nothing": lambda: encamp.call(None),  # type: ignore[arg-type]
    "call of text": lambda: encamp.call("ls"),  # type: ignore[arg-type]
    "Call": lambda: encamp.Call(area(2.0)),  # type: ignore[arg-type]
    "a coroutine": lambda: encamp.call(later()),  # type: ignore[arg-type]
    "one step": lambda: _job().add("a", area(2.0)),  # type: ignore[arg-type]
    "a step that returns nothing": lambda: _job().add("a", print()),  # type: ignore[func-returns-value]
    "a list of steps": lambda: _job().add("a", ["true", area(2.0)]),  # type: ignore[list-item]
    "map_files": lambda: encamp.map_files(area(2.0), "*", to="out"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_uncallable_step_is_refused_at_once(here: object, mistake: Callable[[], Any]) -> None:
    with pytest.raises(
        NotCallable, match=r"give the function and its arguments: call\(f, x\)"
    ) as e:
        mistake()
    assert isinstance(e.value, BadJob)
    assert isinstance(e.value, TypeError)
    assert len(str(e.value)) < 250


def test_long_value_is_shortened_in_message() -> None:
    with pytest.raises(NotCallable) as caught:
        encamp.call(list(range(10_000)))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 250


def test_other_mistakes_have_their_own_words(here: object) -> None:
    with pytest.raises(BadJob, match=r"is a list of words; write command\(\[...\]\)"):
        _job().add("a", [["ls", "-l"]])  # type: ignore[list-item]
    with pytest.raises(BadJob, match="has no steps"):
        encamp.map_files([], "*", to="out")


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("function", [numbers, partial(numbers)])
def test_a_generator_function_which_would_run_nothing_is_refused(
    function: Callable[..., Any],
) -> None:
    with pytest.raises(BadJob, match="the step numbers: is a generator function: calling it"):
        encamp.call(function)


def test_clusters_and_executors_say_it_too() -> None:
    with encamp.Cluster("local", slots=1) as cluster:
        with pytest.raises(CannotTravel, match=r"spawn\(f, x\), not spawn\(f\(x\)\)"):
            cluster.spawn(area(2.0))  # type: ignore[arg-type]
        with encamp.Executor(cluster) as executor:
            future = executor.submit(area(2.0))  # type: ignore[arg-type, var-annotated]
            with pytest.raises(TypeError, match=r"submit\(f, x\), not submit\(f\(x\)\)"):
                future.result(timeout=0)
