"""The MPI engine under ``mpirun``: the script of rank 0 is the controller."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mpis import FOLDER, MPIS, launcher_of, mpirun

from encamp.engines.mpi.find_launcher import Launcher
from encamp.engines.mpi.leftovers import remove
from encamp.jobs.journal.journal import Journal
from encamp.testing.waiting import gone


@pytest.fixture(params=MPIS)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return launcher_of(request.param)


def run(launcher: Launcher, deed: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return mpirun(launcher, 3, str(Path(FOLDER, "rank_script.py")), deed, **options)


def answer(launcher: Launcher, deed: str) -> Any:
    """What the script found out; it must have ended well."""
    done = run(launcher, deed)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    remains, (private, found) = map(json.loads, done.stdout.splitlines())
    assert private
    assert remains
    assert [path for path in remains if Path(path).exists()] == []
    return found


def test_ranks_send_frames_of_any_size_to_each_other_in_order(launcher: Launcher) -> None:
    assert answer(launcher, "talk") == [True, True]


def test_ranks_end_cleanly_with_messages_in_transit(launcher: Launcher) -> None:
    assert answer(launcher, "in_flight") == "left alone"


def test_ranks_whose_work_is_done_wait_for_the_script_without_using_their_core(
    launcher: Launcher,
) -> None:
    assert answer(launcher, "idle_afterwards") < 0.1


def test_a_second_cluster_in_a_script_is_refused_with_the_reason(launcher: Launcher) -> None:
    assert "one cluster in the whole script" in answer(launcher, "again")


SUMS = """
name = "sums"

[[task]]
name = "{n}"
foreach = { n = [1, 2, 3, 4, 5, 6] }
steps = [{ run = "seq {n} | awk '{{ s += $1 }} END {{ print s }}' > sum", shell = true }]
outputs = { "sum" = "{n}" }
"""


INTERRUPTED = """
import json, random, signal, sys, time
from encamp import Cluster, current_task

def echo():
    me = current_task()
    while (got := me.receive().message) is not None:
        me.send(0, got)

if __name__ == "__main__":
    with Cluster("mpi", inline=True) as cluster:
        task = cluster.spawn(echo, notify=False)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        random.seed(7)
        pad = int(sys.argv[1])
        interrupts, sent, got, stop = 0, 0, [], time.monotonic() + 30
        while interrupts < 400 and time.monotonic() < stop:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.004))
                while True:
                    cluster.send(task, [sent := sent + 1, bytes(pad)])
                    got.append(cluster.receive().message[0])
            except KeyboardInterrupt:
                interrupts += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            cluster.send(task, [sent := sent + 1, b""])
            while not got or got[-1] != sent:
                got.append(cluster.receive(20).message[0])
        cluster.send(task, None)
    print(json.dumps([interrupts, sent, got]))
"""


@pytest.mark.parametrize("pad", [0, 1_000, 100_000])
def test_ctrl_c_loses_no_more_than_the_message_that_is_just_received(
    launcher: Launcher, tmp_path: Path, pad: int
) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    done = mpirun(launcher, 2, str(script), str(pad))
    assert done.returncode == 0, done.stderr
    interrupts, sent, got = json.loads(done.stdout)
    assert interrupts == 400
    assert got == sorted(set(got))
    assert sent - len(got) <= interrupts


CTRL_C = """
import os, signal, sys, time
from encamp import Cluster, current_task

def nap():
    current_task().send(0, os.getpid())
    time.sleep(60)

if __name__ == "__main__":
    inline = "inline" in sys.argv
    try:
        with Cluster("mpi", inline=inline) as cluster:
            which = os.getpid if inline else os.getppid
            ranks = {cluster.spawn(which, notify=False).result(20) for _ in range(8)}
            task = cluster.spawn(nap, notify=False)
            cluster.receive(20)
            for rank in ranks:
                os.kill(rank, signal.SIGINT)
            if inline:
                print(type(task.exception(20)).__name__)
            print(cluster.spawn(abs, -3, notify=False).result(20), task.done(), flush=True)
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
    print("end")
"""


@pytest.mark.parametrize(
    ("slots", "printed"),
    [("children", "3 False\n"), ("inline", "KeyboardInterrupt\n3 True\n")],
)
def test_ctrl_c_to_all_ranks_is_for_the_program_and_for_what_runs_in_the_ranks(
    launcher: Launcher, tmp_path: Path, local_storage_base: Path, slots: str, printed: str
) -> None:
    script = tmp_path / "ctrl_c.py"
    script.write_text(CTRL_C)
    done = mpirun(launcher, 3, str(script), slots)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed + "interrupted\nend\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("slotz=2", "it has no option 'slotz'; did you mean 'slots'? its options are: slots,"),
        ("slots=5", "mpirun has started 2 ranks, 1 of them for slots, not 5; leave slots out"),
    ],
)
def test_options_that_do_not_fit_are_refused_under_mpirun_too(
    launcher: Launcher, tmp_path: Path, options: str, why: str
) -> None:
    script = tmp_path / "options.py"
    script.write_text(f"import encamp\nencamp.Cluster('mpi', {options})\n")
    done = mpirun(launcher, 2, str(script))
    assert done.returncode != 0
    assert why in done.stderr


NESTED = """
import json, os, sys
sys.path.insert(0, os.path.dirname(__file__))
from encamp import Cluster, current_task
from nested_work import Asks, Receives, give

if __name__ == "__main__":
    with Cluster("mpi", inline=True) as cluster:
        Asks.cluster = cluster
        task = cluster.spawn(give, notify=False)
        asked = [cluster.receive(20).message.got for _ in range(4)]
        for number in range(4):
            cluster.send(task, Receives())
            cluster.send(task, number)
        print(json.dumps([asked, task.result(20)]))
"""
NESTED_WORK = """
from encamp import current_task
from encamp.testing.work import add

class Asks:
    cluster = None
    def __reduce__(self):
        return asked, ()

def asked():
    asks = Asks()
    asks.got = Asks.cluster.spawn(add, 1, notify=False).result(20)
    return asks

class Receives:
    def __setstate__(self, state):
        self.got = current_task().receive(20).message
    def __getstate__(self):
        return 1

def give():
    me = current_task()
    for _ in range(4):
        me.send(0, Asks())
    return [me.receive(20).message.got for _ in range(4)]
"""


def test_waiting_unpickle_blocks_no_other_message(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "nested_work.py").write_text(NESTED_WORK)
    script = tmp_path / "nested.py"
    script.write_text(NESTED)
    done = mpirun(launcher, 3, str(script))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[2] * 4, [0, 1, 2, 3]]


MIXED = """
import json, random
import numpy as np
from encamp import Cluster, current_task

SIZES = (0, 1, 100, 190, 200, 210, 300, 5_000, 70_000, 300_000)

def mixed(count, seed):
    draw = random.Random(seed)
    for number in range(count):
        size = draw.choice(SIZES)
        yield number, np.zeros(size, np.uint8) if draw.random() < 0.5 else "x" * size

def same(one, other):
    return one[0] == other[0] and type(one[1]) is type(other[1]) and len(one[1]) == len(other[1])

def pour(to, count):
    for message in mixed(count, 1):
        current_task().send(to, message)

def take(count, to):
    me = current_task()
    for wanted in mixed(count, 1):
        if not same(me.receive().message, wanted):
            return f"not {wanted[0]}"
    for message in mixed(count, 2):
        me.send(to, message)
    return "all in order"

if __name__ == "__main__":
    with Cluster("mpi", inline=True) as cluster:
        taker = cluster.spawn(take, 1500, 0, notify=False)
        while cluster.free_slots > 1:
            pass
        pourer = cluster.spawn(pour, taker.id, 1500, notify=False)
        good = all(same(cluster.receive().message, wanted) for wanted in mixed(1500, 2))
        print(json.dumps([taker.result(), pourer.result(), good]))
"""


def test_messages_of_all_sizes_keep_their_order(launcher: Launcher, tmp_path: Path) -> None:
    script = tmp_path / "mixed.py"
    script.write_text(MIXED)
    done = mpirun(launcher, 3, str(script))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["all in order", None, True]


def test_a_job_may_be_run_by_mpirun_itself(
    launcher: Launcher, tmp_path: Path, local_storage_base: Path
) -> None:
    job = tmp_path / "sums.toml"
    job.write_text(SUMS)
    words = ("-m", "encamp", "run", "-e", "mpi", "--to", str(tmp_path / "out"), str(job))
    done = mpirun(launcher, 3, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("6 tasks in 2 slots") == 1
    assert "6 up to date" in mpirun(launcher, 3, *words).stderr
    assert (tmp_path / "out/6/sum").read_text() == "21\n"


def test_error_found_by_rank_0_ends_all_ranks(
    launcher: Launcher, tmp_path: Path, local_storage_base: Path
) -> None:
    job = tmp_path / "sums.toml"
    job.write_text(SUMS)
    to = tmp_path / "out"
    with Journal(to / "sums.job").writing():
        done = mpirun(launcher, 3, "-m", "encamp", "run", "-e", "mpi", "--to", str(to), str(job))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("is being run by another process") == 1
    assert "Traceback" not in done.stderr


TWICE = """
import encamp
for name in ("one", "two"):
    job = encamp.Job(name, to="{out}")
    job.add("task", "true")
    print(job.run(engine="mpi").ok, flush=True)
"""


def test_a_second_job_needs_the_cluster_of_the_first(
    launcher: Launcher, tmp_path: Path, local_storage_base: Path
) -> None:
    script = tmp_path / "twice.py"
    script.write_text(TWICE.replace("{out}", str(tmp_path / "out")))
    done = mpirun(launcher, 3, str(script))
    assert done.returncode != 0
    assert done.stdout.split() == ["True"]
    assert "use one cluster for everything" in done.stderr


def test_child_processes_do_not_look_like_ranks(launcher: Launcher) -> None:
    names = answer(launcher, "variables")
    assert [n for n in names if n.startswith(("PMI", "PMIX", "OMPI", "PRTE", "MPI_"))] == []


def test_dead_rank_is_reported_and_script_continues_if_possible(
    launcher: Launcher,
) -> None:
    done = run(launcher, "killed")
    lines = done.stdout.splitlines()
    remove(json.loads(lines[0]))  # MPICH leaves that to whoever kills it
    if launcher.mpi == "openmpi":
        _, (agent, why, there) = json.loads(lines[1])
        assert (agent, there) == (1, True)
        assert "died" in why
    else:
        assert done.returncode != 0
        assert "Killed" in done.stdout


def test_a_rank_that_hangs_is_ended_with_the_script(launcher: Launcher) -> None:
    done = run(launcher, "hung")
    remains, (_, pid) = map(json.loads, done.stdout.splitlines()[:2])
    assert gone(pid)
    assert [path for path in remains if Path(path).exists()] == []


def test_a_launcher_of_another_mpi_is_an_error_that_says_so() -> None:
    other = launcher_of("openmpi").library
    done = run(launcher_of("mpich"), "talk", library=other)
    assert done.returncode != 0
    assert "the launcher belongs to a different MPI" in done.stderr
