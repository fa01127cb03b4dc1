"""A job on a closed executor or cluster is refused before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import encamp
from encamp.errors import BadJob, ClusterClosed


@pytest.fixture
def job(here: Path, local_storage_base: Path) -> Iterator[encamp.Job]:
    job = encamp.Job("j", to="results")
    job.add("a", "true")
    yield job
    assert not Path("results/j.job/logs").exists()


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_a_pool_that_is_shut_down_is_refused(job: encamp.Job, kind: type[Executor]) -> None:
    pool = kind(1)  # type: ignore[call-arg]
    pool.shutdown()
    with pytest.raises(BadJob, match=r"job\.run: the executor is shut down; create a new one"):
        job.run(pool)


def test_a_broken_pool_is_refused(job: encamp.Job) -> None:
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result(30)
        with pytest.raises(BadJob, match=r"job\.run: the executor is broken: .*; create a new one"):
            job.run(pool)


def test_a_closed_cluster_is_refused_and_so_is_an_executor_on_it(job: encamp.Job) -> None:
    with encamp.Cluster("local", slots=1) as cluster, encamp.Executor(cluster) as executor:
        pass
    for closed in (cluster, executor):
        with pytest.raises((BadJob, ClusterClosed), match="create a new one"):
            job.run(closed)
