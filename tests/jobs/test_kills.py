"""After any stop or kill of a run, the next one continues, and no files are left over."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_steps import counted

import encamp
from encamp.jobs.journal.journal import Journal
from encamp.jobs.progress_interface import Silent
from encamp.reports import TaskReport
from encamp.storage.local_storage import LOCAL
from encamp.testing.waiting import until

SCRIPT = Path(__file__).with_name("killable.py")
NAMES = ["t0", "t1", "t2", "last"]


class Runs:
    """Runs of the same job, one after the other, in processes of their own."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.to, self.counter, self.base = folder / "out", folder / "counter", base
        self.errors = folder / "errors"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, stop: object = "", *more: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, str(SCRIPT), str(self.to), str(self.counter), str(stop), *more]
        with self.errors.open("w") as errors:
            process = subprocess.Popen(words, start_new_session=True, stderr=errors)
        self.started.append(process)
        return process

    def finish(self) -> None:
        """Run to the end, without any stop."""
        process = self.start()
        process.wait(60)
        assert process.returncode == 0, self.errors.read_text()

    def outputs(self) -> dict[str, bytes]:
        files = [path for path in self.to.rglob("*") if path.is_file()]
        own = self.to / "job.job"
        return {
            str(path.relative_to(self.to)): path.read_bytes()
            for path in files
            if own not in path.parents
        }

    def done(self) -> set[str]:
        journal = Journal(self.to / "job.job")
        journal.read()
        return set(journal.done)

    def slots(self) -> list[psutil.Process]:
        """Slots, and what they started, that belong to these runs."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get(LOCAL) == str(self.base)
                if mine and "ENCAMP_SLOT" in process.environ():
                    found.append(process)
            except psutil.Error:
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def sandboxes(self) -> list[Path]:
        return list(self.base.glob("encamp-*/sandboxes/*"))

    def check_clean(self) -> None:
        """Nothing temporary is left."""
        until(lambda: not self.slots())
        assert list(self.to.rglob(".encamp-*")) == []
        assert list(self.to.rglob(".*.part")) == []
        assert list((self.to / "job.job").glob("running-*")) == []
        assert self.sandboxes() == []

    def check_resumed(self) -> None:
        """Run to the end; what was done is not done again, and all is as if never stopped."""
        done, before = self.done(), Counter(counted(self.counter))
        self.finish()
        after = Counter(counted(self.counter))
        assert {name: after[name] - before[name] for name in NAMES} == {
            name: int(name not in done) for name in NAMES
        }
        assert self.outputs() == EXPECTED
        assert self.kept() == []
        self.check_clean()

    def kept(self) -> list[str]:
        """Outputs that a run took for somebody else's."""
        journal = Journal(self.to / "job.job")
        journal.read()
        reports = [record.report for record in journal.done.values()]
        outputs = [output for report in reports if report for output in report.outputs]
        return [output.path for output in outputs if output.kept]


def _expected() -> dict[str, bytes]:
    made = {}
    for name in NAMES[:-1]:
        made[f"first/{name}.txt"] = (name * 1000).encode()
        made[f"second/{name}.txt"] = (name * 2000).encode()
    return {**made, "all.txt": b"".join(name.encode() * 5 for name in NAMES[:-1])}


EXPECTED = _expected()


@pytest.fixture
def runs(tmp_path: Path, local_storage_base: Path) -> Iterator[Runs]:
    found = Runs(tmp_path, local_storage_base)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.wait()
    until(lambda: not found.slots())


def test_uninterrupted_job_gives_expected_results(runs: Runs) -> None:
    runs.check_resumed()
    runs.check_resumed()
    assert Counter(counted(runs.counter)) == Counter(NAMES)


PARTS = 4
"""Tests into which the steps of a run are divided, so that each takes a while only."""


class ForkedRuns(Runs):
    """Runs in forks of one program; how many results each takes in ``at_once`` is settled."""

    def __init__(self, folder: Path, base: Path, at_once: int) -> None:
        super().__init__(folder, base)
        self.at_once = at_once
        program, pipe = SCRIPT.with_name("forked_runs.py"), subprocess.PIPE
        with self.errors.open("w") as errors:
            self.program = subprocess.Popen(
                [sys.executable, str(program)], stdin=pipe, stdout=pipe, stderr=errors, text=True
            )

    def run(self, stop: int) -> tuple[int, int]:
        """The exit status of a run that is killed at a chance, and how many chances it had."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        order = [str(self.to), str(self.counter), stop, self.at_once]
        print(json.dumps(order), file=self.program.stdin, flush=True)
        status, chances = json.loads(self.program.stdout.readline())
        return status, chances

    def finish(self) -> None:
        assert self.run(0)[0] == 0, self.errors.read_text()

    def slots(self) -> list[psutil.Process]:
        """There are none: tasks have ended before their results are taken in."""
        return []

    def close(self) -> None:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.close()
        self.program.stdout.close()
        self.program.wait(60)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_any_step_of_publishing_it_resumes(
    tmp_path: Path, local_storage_base: Path, at_once: int, part: int
) -> None:
    runs = ForkedRuns(tmp_path, local_storage_base, at_once)
    try:
        for number in count(1 + part, PARTS):
            runs.to, runs.counter = tmp_path / str(number) / "out", tmp_path / f"counter-{number}"
            status, chances = runs.run(number)
            if status == 0:  # it has come to its end; slow ones show more often how they stand
                assert number > chances > 40
                break
            assert status == -signal.SIGKILL
            with Journal(runs.to / "job.job").writing():
                pass  # written anew, it must tell the next run all the same
            runs.check_resumed()
    finally:
        runs.close()


@pytest.mark.parametrize("number", [5, 17, 29])
def test_killed_at_a_step_of_publishing_its_slots_leave_nothing_to_it(
    runs: Runs, number: int
) -> None:
    process = runs.start(number)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    runs.check_resumed()


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_moment_it_resumes(runs: Runs, seed: int) -> None:
    process = runs.start()
    time.sleep(random.Random(seed).uniform(0.1, 0.8))
    process.kill()
    process.wait()
    runs.check_resumed()


def test_killed_again_and_again_it_counts_its_attempts(runs: Runs, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        process = runs.start(tmp_path / "never")
        until(lambda n=number: len(counted(runs.counter)) == 2 * n)  # type: ignore[misc]
        process.kill()
        process.wait()
    journal = Journal(runs.to / "job.job")
    journal.read()
    assert journal.attempts["t0"] == 3
    runs.finish()
    assert (runs.to / "job.job/logs/t0.4.log").read_text() == "made t0\n"
    assert Counter(counted(runs.counter))["t0"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_ends_it_and_leaves_it_resumable(
    runs: Runs, tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    process = runs.start(tmp_path / "never")
    until(lambda: len(counted(runs.counter)) == 2)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    process.wait(30)
    assert process.returncode in {-number, 128 + number}, runs.errors.read_text()
    runs.check_clean()
    report = (runs.to / "job.job/report.json").read_text()
    assert '"interrupted": true' in report
    runs.check_resumed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_process_pool_and_its_controller_does_the_same(
    runs: Runs, tmp_path: Path, number: signal.Signals
) -> None:
    process = runs.start(tmp_path / "never", "pool")
    until(lambda: len(counted(runs.counter)) == 2)
    os.killpg(process.pid, number)
    process.wait(15)
    assert '"interrupted": true' in (runs.to / "job.job/report.json").read_text()
    runs.check_clean()
    runs.check_resumed()


class AtOnce(Executor):
    """Runs everything in ``submit``, so that many results arrive together."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class CtrlC(Silent):
    """Presses Ctrl-C when the first task ends, while the others' results are being taken in."""

    ended_tasks = 0

    def ended(self, task: TaskReport) -> None:
        self.ended_tasks += 1
        if self.ended_tasks == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_results_are_taken_in_loses_none_of_them(here: Path) -> None:
    job = encamp.Job("job", to="out")
    for number in range(4):
        job.add(str(number), f"sh -c 'echo > {number}.txt'", outputs=f"{number}.txt")
    job.add("last", "true", after="*")
    with pytest.raises(KeyboardInterrupt):
        job.run(AtOnce(), progress=CtrlC())
    journal = Journal(job.folder)
    journal.read()
    assert set(journal.done) == {"0", "1", "2", "3"}
    assert {path.name for path in Path("out").iterdir()} == {
        "0.txt",
        "1.txt",
        "2.txt",
        "3.txt",
        "job.job",
    }
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert job.run()["last"].state == "done"


class Waiting(Executor):
    """Runs everything in ``submit``; but for the first, results come when `release` is called."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.results: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        self.results.append(fn(*args, **kwargs))
        if len(self.futures) == 3:
            self.futures[0].set_result(self.results[0])
        return self.futures[-1]

    def release(self) -> None:
        for future, result in list(zip(self.futures, self.results, strict=True))[1:]:
            future.set_result(result)


class CtrlCThenResults(Silent):
    """Presses Ctrl-C when the first task ends; then the others' results come, and wait."""

    def __init__(self, executor: Waiting) -> None:
        self.executor = executor
        self.pressed = False

    def ended(self, task: TaskReport) -> None:
        if not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
            self.executor.release()


def test_results_waiting_at_ctrl_c_are_published(here: Path) -> None:
    job = encamp.Job("job", to="out")
    for number in range(3):
        job.add(str(number), f"touch {number}.txt", outputs=f"{number}.txt")
    executor = Waiting()
    with pytest.raises(KeyboardInterrupt):
        job.run(executor, progress=CtrlCThenResults(executor))
    assert [Path(f"out/{number}.txt").exists() for number in range(3)] == [True] * 3
    assert {task.state for task in job.run().tasks} == {"up to date"}


@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_at_a_random_moment_leaves_nothing(runs: Runs, seed: int) -> None:
    process = runs.start()
    until(lambda: (runs.to / "job.job").exists())
    time.sleep(random.Random(seed).uniform(0.0, 0.5))
    os.kill(process.pid, signal.SIGINT)
    process.wait(30)
    runs.check_clean()
    runs.check_resumed()


def test_a_second_ctrl_c_is_not_ignored(runs: Runs, tmp_path: Path) -> None:
    process = runs.start(tmp_path / "never")
    until(lambda: len(counted(runs.counter)) == 2)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.05)
    process.wait(30)
    assert process.returncode != 0
    until(lambda: not runs.slots())
    runs.check_resumed()


def test_killed_alone_its_slots_end_by_themselves_and_strike_their_folders(
    runs: Runs, tmp_path: Path
) -> None:
    process = runs.start(tmp_path / "never")
    until(lambda: len(counted(runs.counter)) == 2)
    assert len(runs.slots()) >= 2
    process.kill()
    until(lambda: not runs.slots())
    assert runs.sandboxes() == []


def test_pool_workers_whose_controller_was_killed_stop_their_tasks(
    runs: Runs, tmp_path: Path
) -> None:
    process = runs.start(tmp_path / "never", "pool")
    until(lambda: len(counted(runs.counter)) == 2)
    workers = psutil.Process(process.pid).children()
    process.kill()
    until(lambda: not runs.slots())
    until(lambda: runs.sandboxes() == [])
    for worker in workers:  # the pool itself does not end them
        worker.kill()
    process.wait()
    runs.check_resumed()


def test_a_slot_killed_with_its_controller_leaves_what_the_next_run_removes(
    runs: Runs, tmp_path: Path
) -> None:
    process = runs.start(tmp_path / "never")
    until(lambda: len(counted(runs.counter)) == 2)
    victims = [process, *runs.slots()]
    for victim in victims:
        victim.send_signal(signal.SIGSTOP)  # so that none can clean up after another
    for victim in victims:
        victim.kill()
    until(lambda: not runs.slots())
    assert len(runs.sandboxes()) > 0
    process.wait()
    runs.check_resumed()


def test_second_process_learns_who_runs_the_job(runs: Runs, tmp_path: Path) -> None:
    go = tmp_path / "go"
    process = runs.start(go)
    until(lambda: len(counted(runs.counter)) == 2)
    other = runs.start()
    other.wait(30)
    assert other.returncode != 0
    assert f"is being run by process {process.pid} on" in runs.errors.read_text()
    go.touch()
    process.wait(60)
    assert process.returncode == 0, runs.errors.read_text()
    assert runs.outputs() == EXPECTED
    assert Counter(counted(runs.counter)) == Counter(NAMES)
