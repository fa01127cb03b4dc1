"""Scripts in PyOPUS's style, run as users run them, print what PyOPUS prints."""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from conftest import need
from encamp import cores_and_memory
from encamp.engines.mpi.find_launcher import Launcher, find_launcher
from encamp.errors import EngineUnavailable

HOST, CORES = socket.gethostname(), cores_and_memory.cores()
SCRIPTS = Path(__file__).parent / "scripts"
OVERSUBSCRIBED = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
WAYS = ["local", "mpich", "openmpi"]


@cache
def launcher(mpi: str) -> Launcher | None:
    try:
        return find_launcher(mpi=mpi)
    except EngineUnavailable:
        return None


def run(way: str, script: str, *args: str, ranks: int = 4) -> subprocess.CompletedProcess[str]:
    """Run a script on ``ranks`` ranks, or on as many slots less one of this machine."""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # then nothing comes between two words
    command = [sys.executable, "on_local.py", str(ranks - 1), script, *args]
    if way == "inline":
        environment["ENCAMP_INLINE"] = "1"
    elif way != "local":
        start = launcher(way)
        need(way, start is not None)
        assert start is not None
        environment |= {**OVERSUBSCRIBED, "MPI4PY_LIBMPI": str(start.library)}
        command = [start.path, "-n", str(ranks), sys.executable, script, *args]
    return subprocess.run(
        command,
        cwd=SCRIPTS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def lines(way: str, script: str, *args: str, ranks: int = 4) -> list[str]:
    done = run(way, script, *args, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("mpi", WAYS[1:])
def test_slots_of_ranks_on_one_host_are_rank_0s_if_these_differ_in_cores_only(mpi: str) -> None:
    assert lines(mpi, "near.py", ranks=2) == ["slots of rank 0: True True []"]
    assert lines(mpi, "near.py", "MORE", ranks=2) == ["slots of rank 0: False True []"]


@pytest.mark.parametrize("way", WAYS)
def test_spawned_tasks_print_and_return_the_same_ids(way: str) -> None:
    output = lines(way, "spawn.py")
    greetings = sorted(line for line in output if line.startswith("greeting"))
    slots = ["1:1", "1:4", "2:2", "2:5", "3:3"]
    assert greetings == [f"greeting from {task}" for task in slots]
    head = f"{HOST} ncpu={CORES} free slots: "
    place = f"child of 0:0, in {SCRIPTS}"
    assert [line for line in output if line not in greetings] == [
        "slots 4 free 3 me 0:0 MPI_NOTASK",
        f"{head}[1, 2, 3]",
        "\tslot=   0 task=   0",
        "",
        "spawned ['1:1', '2:2'] free 1",
        f"{head}[3]",
        "\tslot=   0 task=   0",
        "\tslot=   1 task=   1",
        "\tslot=   2 task=   2",
        "",
        f"1:1 success=True: 1:1 at {HOST}, {place}",
        "1:1 exit of 1:1",
        f"2:2 success=True: 2:2 at {HOST}, {place}",
        "2:2 exit of 2:2",
        "next [MPITaskID(3, 3), MPITaskID(1, 4), MPITaskID(2, 5)]",
        "finished",
    ]
    assert output[-1] == "finished"


@pytest.mark.parametrize("way", [*WAYS, "inline"])
def test_messages_go_between_spawner_and_tasks(way: str) -> None:
    assert lines(way, "talk.py") == [
        *(f"{size} True True" for size in [0, 1, 1000, 100000, 10000000]),
        "True",
        "nothing () () False",
        "[None]",
        "1:2 2:3 ['2:3 wrote a letter', 'None']",
        "[((), (), False)]",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_mirrored_files_are_in_a_folder_that_is_called_as_by_pyopus(way: str, here: Path) -> None:
    for name in ["a.cir", "b.cir", "models/m.lib"]:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("x")
    output = lines(way, "storage.py", str(here))
    folders = [line for line in output if line.startswith("pyopus-")]
    assert {*folders} == {f"pyopus-{getpass.getuser()} PID_vm{number}" for number in (0, 2)}
    assert [line for line in output if line not in folders] == [
        "['a.cir', 'b.cir', 'lib/models/m.lib']",
        "['a.cir', 'b.cir', 'lib/models/m.lib']",
        "['m.lib']",
        "['a.cir', 'b.cir']",
        "used again: True",
        "after clearing: ['a.cir', 'b.cir']",
    ]
    assert sorted(path.name for path in here.iterdir()) == ["a.cir", "b.cir", "models"]


@pytest.mark.parametrize("way", WAYS)
def test_task_failure_is_reported_and_program_continues(way: str) -> None:
    done = run(way, "farm.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1+1 [('1:1', (True, 2))]",
        "5*5 [('2:2', (True, 25))]",
        "unknown*2 [('3:3', (False, None))]",
        "2**7 not spawned",
        "raise True",
        "exit True",
        "True free 3",
        "finished",
    ]
    failures = re.findall(rf"task (\d:\d) on {HOST} failed:", done.stderr)
    assert len(failures) == 3
    for text in ["name 'unknown' is not defined", "LookupError: no bread", "exit status 3"]:
        assert text in done.stderr


@pytest.mark.parametrize("words", [[], ["finalize"], ["finalize", "cooperative"]])
@pytest.mark.parametrize("way", WAYS)
def test_slot_keeps_process_and_error_is_reported_at_end(way: str, words: list[str]) -> None:
    done = run(way, "ending.py", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 [True, True, True, True]\n"
    assert done.stderr.count(f" on {HOST} failed:\n") == 1
    assert done.stderr.rstrip().endswith("LookupError: no bread")


@pytest.mark.parametrize("way", WAYS)
def test_the_cooperative_system_outsources_tasks(way: str) -> None:
    output = lines(way, "outsource.py")
    turns = [line for line in output if re.fullmatch(r"[abxy] \d", line)]
    assert [line for line in turns if line[0] in "ab"] == ["a 0", "a 1", "b 0", "b 1"]
    assert sorted(line for line in turns if line[0] in "xy") == sorted(
        f"{name} {number}" for name in "xy" for number in range(3) for _ in range(2)
    )
    assert [line for line in output if line not in turns] == [
        "slots 4 free 3 finished 0",
        "running [2, 3, 4, 5]",
        "[(2, 2), (3, 2), (4, [3, 3]), (5, [3, 3])]",
        str([(1, n * n) for n in range(12)]),
        "collector closed",
        str([(n, (n, n * n)) for n in range(11)]),
        "42",
        "failed: division by zero",
        "finished",
    ]


def test_without_mpirun_all_is_done_by_the_program_itself() -> None:
    done = subprocess.run(
        [sys.executable, "outsource.py"], cwd=SCRIPTS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "slots -1 free -1 finished -1"
    assert str([(1, n * n) for n in range(12)]) in done.stdout
    assert done.stdout.splitlines()[-1] == "finished"


@pytest.mark.parametrize("way", ["mpich", "openmpi"])
def test_a_program_that_raises_ends_all_ranks(way: str, here: Path) -> None:
    script = here / "raises.py"
    script.write_text(
        "from encamp.compat.pyopus.mpi import MPI\n"
        "import time\n"
        "MPI().spawnFunction(time.sleep, [1000])\n"
        "raise LookupError('enough')\n"
    )
    done = run(way, str(script), ranks=3)
    assert done.returncode != 0
    assert "LookupError: enough" in done.stderr
