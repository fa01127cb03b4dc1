"""Clusters of Dask whose workers are jobs of a real Slurm's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import encamp
from encamp import Cluster
from encamp.errors import EngineUnavailable
from encamp.testing.conformance.bound import PATIENCE
from encamp.testing.waiting import until
from some_slurm import SomeSlurm, slurm

__all__ = ["slurm"]


@pytest.fixture
def options(slurm: SomeSlurm, here: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Those of dask-jobqueue for workers of one core."""
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    return {
        "cores": 1,
        "memory": "400MB",
        "walltime": "00:05:00",
        "interface": "lo",
        "log_directory": str(here / "logs"),
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
    }


def job_of(allocation: Path) -> str:
    """In which job of Slurm's a task runs; it waits for its fellows there."""
    import os
    import time

    own = os.environ["SLURM_JOB_ID"]
    (allocation / own).touch()
    while len(list(allocation.iterdir())) < 2:
        time.sleep(0.01)
    return own


def test_workers_are_jobs_of_slurm(
    options: dict[str, Any], slurm: SomeSlurm, tmp_path: Path
) -> None:
    allocations = tmp_path / "jobs"
    allocations.mkdir()
    with Cluster("dask", jobqueue="slurm", slots=2, queue="all", **options) as cluster:
        tasks = [cluster.spawn(job_of, allocations) for _ in range(2)]
        jobs = {task.result(PATIENCE) for task in tasks}
        assert len(jobs) == 2
    until(lambda: slurm.run("squeue", "--noheader").stdout.strip() == "")


REFUSED = """
import signal, sys, threading
from encamp import Cluster
from encamp.errors import EncampError

def start():
    try:
        Cluster("dask", jobqueue="none", slots=1)
    except EncampError as exc:
        print(exc)

if sys.argv[1] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("main", "jobqueue.* must be one of .*slurm"),
        ("thread", "main thread of the main interpreter; import dask_jobqueue in the main thread"),
    ],
)
def test_ctrl_c_still_interrupts_a_program_that_uses_dask_jobqueue(
    where: str, message: str
) -> None:
    """dask-jobqueue makes Ctrl-C end the program with status 0 as soon as it is imported."""
    pytest.importorskip("dask_jobqueue")
    line = [sys.executable, "-c", REFUSED, where]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE)
    output, default = done.stdout.splitlines()
    assert re.search(message, output)
    assert default == "True"


def test_refused_slurm_jobs_are_reported_at_once(options: dict[str, Any]) -> None:
    options["memory"] = "4TB"
    with pytest.raises(EngineUnavailable, match=r"slurm: sbatch: error: .*not available; see the"):
        Cluster("dask", jobqueue="slurm", slots=2, **options)


def test_an_adaptive_cluster_grows_for_a_job_and_shrinks_after_it(
    options: dict[str, Any], here: Path, slurm: SomeSlurm
) -> None:
    from dask_jobqueue import SLURMCluster

    job = encamp.Job("strips", to="out")
    (seen := here / "seen").mkdir()
    # The first job's task ends when a second job has begun to work, too.
    wait = f"for i in $(seq 600); do [ $(ls {seen} | wc -l) -gt 1 ] && break; sleep 0.1; done"
    for number in range(8):
        line = (
            f"touch {seen}/$SLURM_JOB_ID; {wait}; "
            f"echo {number} > {number}.txt; echo $SLURM_JOB_ID > {number}.job"
        )
        job.add(
            f"t{number}",
            encamp.command(line, shell=True),
            outputs=[f"{number}.txt", f"{number}.job"],
        )
    with SLURMCluster(queue="all", **options) as dask:
        dask.adapt(minimum_jobs=0, maximum_jobs=4, interval="0.3s")
        with Cluster(dask) as cluster:
            assert job.run(cluster).ok
            until(lambda: cluster.slots == 0, 60)
            until(lambda: slurm.run("squeue", "--noheader").stdout.strip() == "")
    assert [(here / f"out/{n}.txt").read_text() for n in range(8)] == [f"{n}\n" for n in range(8)]
    assert len({(here / f"out/{n}.job").read_text() for n in range(8)}) > 1
