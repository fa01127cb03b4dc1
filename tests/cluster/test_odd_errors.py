"""Errors and values with hostile methods: their task ends, and its slot continues."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import odd_errors as odd
import pytest

from encamp.cluster.cluster import Cluster
from encamp.errors import CannotTravel
from encamp.jobs.job import Job
from encamp.jobs.steps import call
from encamp.reports import JobFailed
from encamp.wire.pickling import RemoteTraceback

SOON = 30.0


@pytest.fixture(params=[False, True], ids=["child", "inline"])
def cluster(
    request: pytest.FixtureRequest, local_storage_base: Path, no_slots_left: None
) -> Iterator[Cluster]:
    """A cluster of one slot, which is the same at the end."""
    with Cluster("local", slots=1, inline=request.param) as cluster:
        pid = cluster.spawn(os.getpid).result(SOON)
        yield cluster
        assert cluster.spawn(os.getpid).result(SOON) == pid


def outcome(cluster: Cluster, function: Callable[..., Any], *args: Any) -> Any:
    task = cluster.spawn(function, *args)
    return task.exception(SOON) or task.result()


def test_any_error_is_returned_as_itself_or_as_text(cluster: Cluster) -> None:
    for kind in odd.KINDS:
        error = outcome(cluster, odd.throw, kind)
        if type(error) is not kind:
            assert type(error) is RuntimeError
            assert kind not in odd.REBUILT or "not here" in str(error)
        cause = BaseException.__dict__["__cause__"].__get__(error)
        assert type(cause) is RemoteTraceback
        assert "odd_errors.py" in cause.text, "where it was raised is known in any case"


def test_causes_in_a_circle_and_groups_of_odd_errors(cluster: Cluster) -> None:
    assert outcome(cluster, odd.throw_cycle).args == ("one",)
    group = outcome(cluster, odd.throw_group)
    assert [type(one).__name__ for one in group.exceptions] == [
        "PicklingExits",
        "RaisingText",
        "KeyboardInterrupt",
    ]


def test_values_that_cannot_be_pickled_or_unpickled(cluster: Cluster) -> None:
    for kind in odd.NO_VALUES:
        error = outcome(cluster, odd.give, kind)
        assert isinstance(error, CannotTravel)
        assert kind.reason.__name__ in str(error) or "recursion" in str(error)
    error = outcome(cluster, odd.give, odd.UnpicklingExits)
    assert str(error) == "its result cannot be unpickled here: SystemExit: 9"


def test_arguments_that_cannot_be_pickled(cluster: Cluster) -> None:
    for kind in odd.NO_VALUES:
        error = outcome(cluster, id, kind())
        assert isinstance(error, CannotTravel)
        assert kind.reason.__name__ in str(error) or "recursion" in str(error)


def test_steps_of_a_job_that_raise_or_return_such(here: Path) -> None:
    job = Job("odd", to="out")
    kinds = {kind.__qualname__: kind for kind in odd.KINDS if kind is not odd.RaisingName}
    for name, kind in kinds.items():
        job.add(f"raises {name}", [call(odd.throw, kind)])
    for kind in odd.NO_VALUES:
        job.add(f"returns {kind.__name__}", [call(odd.give, kind)])
    with pytest.raises(JobFailed) as failed:
        job.run(slots=1)
    report = failed.value.report
    assert report.count("failed") == len(kinds)
    assert report.count("done") == len(odd.NO_VALUES)
    for task in report.tasks:
        if task.name.startswith("raises"):
            assert f"raised {task.name.split()[1]}: " in task.why
