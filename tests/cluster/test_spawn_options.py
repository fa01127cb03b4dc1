"""The options of a spawn are one list: users' options as their types say, besides internal ones."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import pytest

from encamp.cluster.spawn_options import (
    CheckedOptions,
    InternalOptions,
    SpawnOptions,
    TaskOptions,
)
from encamp.errors import UnknownOption
from encamp.executor.executor import Executor

INTERNAL = {field.name for field in fields(InternalOptions)} | {"slot", "alone", "ready"}


def test_users_options_are_those_of_their_types() -> None:
    assert {field.name for field in fields(SpawnOptions)} - INTERNAL == set(
        TaskOptions.__annotations__
    )


def test_an_executor_takes_all_options_that_its_tasks_can_share() -> None:
    theirs = set(signature(Executor).parameters)
    assert set(TaskOptions.__annotations__) - theirs == {"name", "notify"}


@pytest.mark.parametrize("name", sorted(INTERNAL))
def test_internal_options_are_not_for_users(name: str) -> None:
    with pytest.raises(UnknownOption, match=name):
        SpawnOptions.of({name: None})


def test_internal_options_reach_the_checked_options() -> None:
    given = {"initializer": (print, ()), "answer": print, "owner": 1, "on_output": print}
    checked = SpawnOptions(at_once=True, cores=2, **given).checked()  # type: ignore[arg-type]
    assert isinstance(checked, CheckedOptions)
    assert {name: getattr(checked, name) for name in given} == given
    assert checked.at_once
    assert checked.need.cores == 2
