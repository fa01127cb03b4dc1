"""Inside allocations of a real Slurm: hosts, cores, memory, steps and the end of the allocation."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from encamp.slurm import counts, without_step
from lab import Lab
from lab import missing as missing_of_lab
from some_slurm import SomeSlurm, missing, slurm, some_slurm

__all__ = ["slurm"]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MPI = Path(sys.prefix) / "mpi"
STEP = "srun -n 1 -c 2 "
INNER_STEPS = """
name = "inner"
to = "out"

[[task]]
name = "t{i}"
foreach = { i = [1, 2, 3] }
steps = [
    { run = "srun -n 1 hostname > host-{i}.txt", shell = true },
    { run = "env > env-{i}.txt", shell = true },
]
outputs = ["host-{i}.txt", "env-{i}.txt"]
"""
SLEEPERS = """
import sys, time
import encamp, encamp.jobs.run.allocation_end as module

module.STOP_BEFORE = 52.0
job = encamp.Job("sleepers", to="out")
for number in range(20):
    job.add(f"t{number}", encamp.call(time.sleep, 1))
job.add("long", encamp.command("sleep 3600"), time_limit=7200, retries=1)
job.run(slots=2)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts; those of other tests are four."""
    lacking = missing_of_lab()
    need(str(lacking), lacking is None)
    with Lab(3, variables={"PVM_ALLOW_ROOT": "1"}) as made:
        yield made


def _mpiexec(mpi: str) -> Path:
    launcher = MPI / mpi / "bin/mpiexec"
    need(mpi, launcher.exists())
    return launcher


def test_texts_with_the_cores_of_many_hosts_are_understood() -> None:
    assert counts("16(x2),4,8(x1)") == [16, 16, 4, 8]
    assert counts("2") == [2]
    assert counts("") == []


def test_only_a_step_within_a_step_shares_its_cores() -> None:
    shell = {"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    assert without_step(shell) == shell
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_CPU_BIND": "mask_cpu:1"}
    assert without_step({**shell, **step}) == {**shell, "SLURM_OVERLAP": "1"}
    assert without_step({**step, "PATH": "/bin"}) == {**step, "PATH": "/bin"}


def test_cores_and_memory_are_those_of_the_allocation(slurm: SomeSlurm, here: Path) -> None:
    code = "from encamp import cores_and_memory, slurm; "
    code += "print(cores_and_memory.cores(), cores_and_memory.memory() >> 20, slurm.hosts())"
    batch = slurm.submit(f'{sys.executable} -c "{code}"', "-n1", "--mem=300", cwd=here)
    assert batch.ended() == "1 300 []\n"


@pytest.mark.parametrize(
    ("how", "outer"),
    [("local", ""), ("local", STEP), ("mpich", STEP), ("openmpi", "")],
)
def test_steps_of_tasks_can_start_steps_of_slurm(
    slurm: SomeSlurm, here: Path, how: str, outer: str
) -> None:
    (here / "job.toml").write_text(INNER_STEPS)
    options = "-n 2" if how == "local" else f"-e mpi -n 2 -o launcher={_mpiexec(how)}"
    batch = slurm.submit(f"{outer}{BIN}/encamp run {options} job.toml", "-n2", "-t2", cwd=here)
    output = batch.ended()
    assert "inner: 3 done" in output, output
    for number in (1, 2, 3):
        variables = (here / f"out/env-{number}.txt").read_text()
        assert f"SLURM_JOB_ID={batch.number}\n" in variables
        assert not re.search("^SLURM_(STEP_ID|PROCID|CPU_BIND|SRUN_COMM_PORT)=", variables, re.M)
        assert (here / f"out/host-{number}.txt").read_text().count("\n") == 1


def test_job_stops_before_allocation_end_and_continues_in_next(
    slurm: SomeSlurm, here: Path
) -> None:
    (here / "sleepers.py").write_text(SLEEPERS)
    line = f"{BIN}/encamp run sleepers.py; echo status $?"
    first = slurm.submit(line, "-n2", "-t1", cwd=here).ended()
    found = re.search(
        r"encamp: stopped with (\d+) of 21 tasks done, because the allocation of Slurm's job \d+ "
        r"ends at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d and task long may take 7200 s; "
        r"run again to continue\nstatus 75\n",
        first,
    )
    assert found, first
    done = int(found[1])
    assert 0 < done < 20
    assert len(re.findall("done t", first)) == done
    second = slurm.submit(line, "-n2", "-t1", cwd=here).ended()
    assert f"{done} up to date" in second, second


def test_the_warning_of_slurm_stops_a_job_in_good_order(slurm: SomeSlurm, here: Path) -> None:
    (here / "job.toml").write_text(
        'name = "j"\nto = "out"\n[[task]]\nname = "t"\nsteps = ["touch begun", "sleep 600"]\n'
    )
    line = f"exec {BIN}/encamp run --keep failed -n 1 job.toml"
    # Slurm looks every 30 s for signals that are due within the next 30 s: 75 s before the end
    # means 15 to 45 s after the start. With less, it may arrive before encamp handles signals.
    batch = slurm.submit(line, "-n1", "--signal=B:USR1@75", "-t2", cwd=here)
    output = batch.ended()
    assert "encamp: stopped by SIGUSR1; finished tasks stay done; run again to continue" in output


def test_the_script_of_the_page_runs(slurm: SomeSlurm, here: Path) -> None:
    page = (ROOT / "docs/slurm.md").read_text()
    (script,) = re.findall(r"^```bash\n(#!.*?)^```$", page, re.M | re.S)
    (here / "survey.toml").write_text(INNER_STEPS)
    _mpiexec("openmpi")
    lines = script.replace("exec encamp", f"exec {BIN}/encamp").splitlines()
    smaller = ["--nodes=1", "--ntasks-per-node=2"]  # an option that is given counts, not the line's
    output = slurm.submit("\n".join(lines[1:]), *smaller, cwd=here).ended()
    assert "inner: 3 done" in output, output


@pytest.mark.parametrize("engine", ["mpich", "openmpi", "pvm", "dask", "ipyparallel"])
def test_jobs_use_all_hosts_and_cores_of_their_allocation(lab: Lab, engine: str) -> None:
    lacking = missing()
    need(str(lacking), lacking is None)
    mpi = engine in ("mpich", "openmpi")
    options = f"-e mpi -o launcher={_mpiexec(engine)}" if mpi else f"-e {engine}"
    shell = f"export PVM_ALLOW_ROOT=1 PVM_RSH={lab.ssh_command}\n" * (engine == "pvm")
    folder = lab.folder / "etc" / engine
    folder.mkdir()
    (folder / "job.toml").write_text(
        'name = "j"\nto = "out"\n[[task]]\nname = "t{i}"\nforeach = { i = { from = 1, to = 12 } }\n'
        'steps = [{ run = "sleep 0.5; hostname > {i}.txt", shell = true }]\noutputs = ["{i}.txt"]\n'
    )
    with some_slurm(lab.folder / "etc", lab) as made:
        line = "unset PARALLEL_LOCAL_STORAGE PARALLEL_MIRRORED_STORAGE PVM_ROOT\n" + shell
        line += f"{BIN}/encamp run {options} job.toml"
        output = made.submit(line, "-N3", "--ntasks-per-node=2", "-t2", cwd=folder).ended()
    assert "12 tasks in 6 slots" in output, output
    assert "j: 12 done" in output, output
    hosts = {(folder / f"out/{number}.txt").read_text().strip() for number in range(1, 13)}
    assert hosts == {"lab1", "lab2", "lab3"}
