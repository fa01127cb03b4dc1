"""Numerical libraries start one thread per core of a task, unless the user sets another number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import encamp
from encamp import Cluster
from encamp.slot.numerical_threads import OURS, VARIABLES, of_new_slot
from encamp.testing import work

PATIENCE = 60.0
OMP, BLAS = VARIABLES[:2]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """What whoever runs the tests has chosen."""
    for name in (*VARIABLES, OURS):
        monkeypatch.delenv(name, raising=False)


def chosen() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in VARIABLES}


def nested() -> dict[str, str | None]:
    with Cluster("local", slots=1) as cluster:
        return cluster.spawn(chosen).result(PATIENCE)


def three_each() -> None:
    os.environ[OMP] = "3"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*VARIABLES, OURS):
            patch.delenv(name, raising=False)
        with Cluster("local", slots=1) as started:
            yield started


def test_a_task_of_k_cores_has_k_threads_and_the_next_one_has_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next(iter(cluster._controller.scheduler.hosts.values())), "cores", 4)
    wanted = [(3, "3"), (1, "1"), (2, "2"), (1, "1")]
    for cores, threads in wanted:
        found = cluster.spawn(chosen, cores=cores).result(PATIENCE)
        assert found == dict.fromkeys(VARIABLES, threads)


def test_a_cluster_in_a_task_takes_what_encamp_has_set_for_no_choice_of_its_user(
    cluster: Cluster,
) -> None:
    assert cluster.spawn(nested).result(PATIENCE) == dict.fromkeys(VARIABLES, "1")


def test_user_thread_variables_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OMP, "7")
    with Cluster("local", slots=1) as cluster:
        found = cluster.spawn(chosen).result(PATIENCE)
    assert found == {**dict.fromkeys(VARIABLES), OMP: "7"}


def test_host_variables_precede_program_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLAS, "2")
    found = of_new_slot({BLAS: "5", "MKL_NUM_THREADS": "6"})
    assert (found[BLAS], found["MKL_NUM_THREADS"], found[OMP]) == ("2", "6", "1")
    assert set(found[OURS].split(",")) == {*VARIABLES} - {BLAS, "MKL_NUM_THREADS"}


def test_hosts_know_what_the_program_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that has no such variable itself, as on another host, goes by its orders."""
    monkeypatch.setenv(BLAS, "5")
    with Cluster("local", slots=1) as cluster:
        monkeypatch.delenv(BLAS)
        cluster.spawn(os._exit, 3).exception(PATIENCE)  # its slot has another process now
        assert cluster.spawn(work.variable, BLAS).result(PATIENCE) == "5"
        assert cluster.spawn(work.variable, OMP).result(PATIENCE) == "1"


def test_initializer_thread_variables_stay() -> None:
    with encamp.Executor("local", slots=1, initializer=three_each) as executor:
        for _ in range(2):
            assert executor.submit(work.variable, OMP).result(PATIENCE) == "3"


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_steps_have_one_thread_or_what_their_env_says(
    executor: type[ThreadPoolExecutor] | None, here: Path
) -> None:
    job = encamp.Job("threads", to="results")
    shown = f"echo ${OMP} ${BLAS} >"
    own = encamp.command(f"{shown} own", shell=True, env={OMP: "4"})
    job.add("one", [encamp.command(f"{shown} all", shell=True), own], outputs=["all", "own"])
    if executor is None:
        job.run(slots=1)
    else:
        with executor(1) as pool:
            job.run(pool)
    assert (here / "results/all").read_text().split() == ["1", "1"]
    assert (here / "results/own").read_text().split() == ["4"]
