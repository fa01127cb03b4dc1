"""Numbers may be NumPy's wherever one is taken; Booleans and strings are not numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy
import pytest

from encamp.cluster.cluster import Cluster
from encamp.cluster.spawn_options import SpawnOptions
from encamp.compat.pyopus.clustered import checked_timeout
from encamp.engines.mpi.launched_engine import LaunchedMPI
from encamp.errors import BadJob, WrongType
from encamp.jobs.job import Job
from encamp.number_checks import MOST_SLOTS, duration, limit, patience, slot_count, whole
from encamp.slot.current_task import task_number
from encamp.testing import work
from encamp.units import seconds_in

WHOLE = [2, numpy.int64(2), numpy.uint8(2), numpy.array(2)]
NO_NUMBERS = [True, numpy.True_, "2", 2.5, numpy.float64(2), [2], object()]
SECONDS = [2, 2.0, numpy.float32(2), numpy.int16(2), Fraction(2)]


@pytest.mark.parametrize("number", WHOLE)
def test_whole_numbers_of_all_kinds_are_taken(number: Any) -> None:
    checked = SpawnOptions(cores=number, gpus=number, memory=number).checked()
    assert (checked.need.cores, checked.need.gpus, checked.need.memory) == (2, 2, 2)
    assert type(checked.need.cores) is int
    job = Job("numbers", to="out", retries=number)
    assert job.retries == 2
    assert type(job.retries) is int
    assert task_number(number) == 2


def test_a_cluster_is_made_and_spoken_to_with_such_numbers() -> None:
    with Cluster(slots=numpy.int64(2), start_timeout=numpy.float64(60)) as cluster:  # type: ignore[arg-type]
        assert cluster.slots == 2
        task = cluster.spawn(work.echo, 1, time_limit=numpy.float32(60))  # type: ignore[arg-type]
        cluster.send(numpy.int64(task.id), "hello")  # type: ignore[arg-type]
        got = cluster.receive(numpy.float64(20), source=numpy.int64(task.id))  # type: ignore[arg-type]
        assert got is not None
        assert got.message == "hello"


def options(name: str) -> Callable[[Any], object]:
    return lambda value: SpawnOptions(**{name: value}).checked()


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    "take",
    [
        options("cores"),
        options("gpus"),
        lambda value: Cluster(slots=value),
        lambda value: LaunchedMPI(slots=value),
        lambda value: LaunchedMPI(restarts=value),
        lambda value: Job("numbers", to="out", retries=value),
    ],
)
def test_non_integers_are_refused(take: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(BadJob, match="an integer"):
        take(value)


@pytest.mark.parametrize("number", SECONDS)
def test_seconds_of_all_kinds_are_taken(number: Any) -> None:
    assert patience(number) == checked_timeout(number) == 2
    assert SpawnOptions(time_limit=number).checked().time_limit == 2
    assert Job("numbers", to="out", time_limit=number).time_limit == 2


@pytest.mark.parametrize("value", [True, numpy.True_, "2", [2], numpy.array([1.0, 2.0])])
def test_invalid_seconds_are_refused(value: Any) -> None:
    with pytest.raises(BadJob):
        SpawnOptions(time_limit=value).checked()
    with pytest.raises(TypeError):
        patience(value)
    with pytest.raises(BadJob):
        Job("numbers", to="out", time_limit=value)


def refused(check: Callable[..., object], *args: Any) -> bool:
    try:
        check(*args)
    except (BadJob, WrongType):
        return True
    return False


def test_limits_are_where_they_are_said_to_be() -> None:
    assert [refused(limit, "time_limit", seconds) for seconds in (-1, 0, 1e-9, None)] == [
        True,
        True,
        False,
        False,
    ]
    assert limit("time_limit", math.inf) is None
    assert refused(limit, "time_limit", math.nan)
    assert [refused(duration, "delay", seconds) for seconds in (-1e-9, 0, math.inf, math.nan)] == [
        True,
        False,
        True,
        True,
    ]
    assert [refused(whole, "count", number, 1) for number in (0, 1)] == [True, False]
    assert [refused(slot_count, number) for number in (0, 1, MOST_SLOTS, MOST_SLOTS + 1)] == [
        True,
        False,
        False,
        True,
    ]
    assert [patience(seconds) for seconds in (-1, 0, 2, math.inf, None)] == [0, 0, 2, None, None]
    assert refused(patience, math.nan)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500 ms", 0.5),
        ("30s", 30.0),
        (" 1.5 min ", 90.0),
        ("2h", 7200.0),
        ("5", None),
        ("5 m", None),
        ("-5 s", None),
        ("", None),
    ],
)
def test_a_time_is_a_number_with_a_unit(text: str, seconds: float | None) -> None:
    assert seconds_in(text) == seconds
